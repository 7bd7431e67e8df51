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
	var forwards []hostport.Forward
	for _, a := range slices.Concat(lists...) {
		for _, f := range hostport.Families() {
			forwards = append(forwards, a.Forwards(f)...)
		}
	}
	if _, err := conntrack.Flush(ctx, forwards); err != nil {
		s.Log.Warn("stale UDP flows may remain", "reason", err)
	}
}
