package node

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/internal/loopback"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// loopbackInterface returns the interface on which 127.0.0.1 must be let through,
// or "" if no mapping is for 127/8 or no route leads to the pod.
func (n *Node) loopbackInterface(a *hostport.Attachment) string {
	local := func(f hostport.Forward) bool { return !f.HostIP.IsValid() || f.HostIP.IsLoopback() }
	if !a.Options.SNAT || !slices.ContainsFunc(a.Forwards(hostport.IPv4), local) {
		return ""
	}
	pod, _ := a.Address(hostport.IPv4)
	ifname, err := loopback.Interface(pod.Addr())
	if err != nil {
		n.Log.Warn("127.0.0.1 will not reach the pod", "pod", pod.Addr(), "reason", err)
	}
	return ifname
}

// claimInterface records that we set route_localnet for an attachment, unless it
// is set already: only what we set may be unset when it is no longer needed. For
// an attachment that was read back from the kernel, it is unknown who set it.
// Closing 127/8 with the last attachment is then the safe choice, because the
// guard is removed with it.
func claimInterface(tx *state.Tx, a *hostport.Attachment) error {
	ifname := a.LoopbackInterface
	if ifname == "" || tx.Opened(ifname) || !a.AddedAt.IsZero() && loopback.Check(ifname) == nil {
		return nil
	}
	return tx.SetOpened(ifname, true)
}

// openInterfaces sets route_localnet for these attachments.
func openInterfaces(all []*hostport.Attachment) error {
	var errs []error
	for _, a := range all {
		if a.LoopbackInterface == "" {
			continue
		}
		if err := loopback.Open(a.LoopbackInterface); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.Owner(), err))
		}
	}
	return errors.Join(errs...)
}

// checkInterface returns an error if 127.0.0.1 must reach the attachment and does not.
func checkInterface(a *hostport.Attachment) error {
	if a.LoopbackInterface == "" {
		return nil
	}
	return loopback.Check(a.LoopbackInterface)
}
