package node

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/internal/loopback"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// loopbackInterface returns the interface on which 127.0.0.1 has to be let
// through, or "" where no mapping is for 127/8 or no route leads to the pod.
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

// claimInterface notes that it is we who will have set route_localnet for an
// attachment, if it is not set yet: only then may we unset it when nobody needs it
// any more. Of one that was read back from the kernel it is not known who did. To
// close 127/8 with the last attachment is the safe side: the guard goes with it.
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

// checkInterface returns nil if 127.0.0.1 reaches the attachment, where it has to.
func checkInterface(a *hostport.Attachment) error {
	if a.LoopbackInterface == "" {
		return nil
	}
	return loopback.Check(a.LoopbackInterface)
}
