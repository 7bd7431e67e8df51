package node

import (
	"context"
	"slices"

	"github.com/hostport-cni/hostport/internal/conntrack"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// flush removes the UDP flows to ports of these attachments, which would go on
// to where their port led before. It comes too late to fail the change, which
// the kernel has taken.
func (s *session) flush(ctx context.Context, lists ...[]*hostport.Attachment) {
	var targets []conntrack.Target
	seen := map[conntrack.Target]bool{}
	for _, a := range slices.Concat(lists...) {
		for _, f := range hostport.Families() {
			for _, fw := range a.Forwards(f) {
				t := conntrack.Target{Port: fw.HostPort, HostIP: fw.HostIP, Family: f}
				if fw.Protocol == hostport.UDP && !seen[t] {
					seen[t] = true
					targets = append(targets, t)
				}
			}
		}
	}
	if len(targets) == 0 {
		return
	}
	if _, err := conntrack.Flush(ctx, targets); err != nil {
		s.Log.Warn("stale UDP flows may remain", "reason", err)
	}
}
