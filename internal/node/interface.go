package node

import (
	"github.com/hostport-cni/hostport/internal/loopback"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// loopbackInterface returns the interface on which 127.0.0.1 has to be let
// through, or "" where no mapping is for 127/8 or no route leads to the pod.
func (n *Node) loopbackInterface(a *hostport.Attachment) string {
	pod, ok := a.Address(hostport.IPv4)
	if !ok || !a.Options.SNAT {
		return ""
	}
	for _, f := range a.Forwards(hostport.IPv4) {
		if f.HostIP.IsValid() && !f.HostIP.IsLoopback() {
			continue
		}
		ifname, err := loopback.Interface(pod.Addr())
		if err != nil {
			n.Log.Warn("127.0.0.1 will not reach the pod", "pod", pod.Addr(), "reason", err)
			return ""
		}
		return ifname
	}
	return ""
}

// claimInterface notes that it is we who will have set route_localnet, if it is
// not set yet: only then may we unset it when nobody needs it any more.
func claimInterface(tx *state.Tx, ifname string) error {
	if ifname == "" || tx.Opened(ifname) || loopback.Check(ifname) == nil {
		return nil
	}
	return tx.SetOpened(ifname, true)
}

// closeInterfaces unsets route_localnet where we set it for one of these
// attachments and no record needs it now.
func (s *session) closeInterfaces(changed []*hostport.Attachment) error {
	return s.View(func(tx *state.Tx) error {
		for _, a := range changed {
			if !tx.Opened(a.LoopbackInterface) || tx.InterfaceUsed(a.LoopbackInterface) {
				continue
			}
			if err := loopback.Close(a.LoopbackInterface); err != nil {
				return err
			}
		}
		return nil
	})
}

// forgetInterfaces removes the notes on interfaces that were closed.
func forgetInterfaces(tx *state.Tx, changed []*hostport.Attachment) error {
	for _, a := range changed {
		name := a.LoopbackInterface
		if !tx.Opened(name) || tx.InterfaceUsed(name) || loopback.Check(name) == nil {
			continue
		}
		if err := tx.SetOpened(name, false); err != nil {
			return err
		}
	}
	return nil
}

// openInterfaces sets route_localnet for these attachments.
func openInterfaces(added []*hostport.Attachment) error {
	for _, a := range added {
		if a.LoopbackInterface == "" {
			continue
		}
		if _, err := loopback.Open(a.LoopbackInterface); err != nil {
			return err
		}
	}
	return nil
}

// openAllInterfaces sets route_localnet for every record. A pod's interface may
// be gone with the pod, which is no error.
func (s *session) openAllInterfaces() {
	all, err := s.records()
	if err != nil {
		s.Log.Warn("127.0.0.1 may not reach pods", "reason", err)
	}
	for _, a := range all {
		if err := openInterfaces([]*hostport.Attachment{a}); err != nil {
			s.Log.Warn("127.0.0.1 may not reach a pod", "owner", a.Owner(), "reason", err)
		}
	}
}
