package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hostport-cni/hostport/internal/listener"
	"github.com/hostport-cni/hostport/internal/loopback"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// HeldError says that a host port belongs to a living attachment.
type HeldError struct {
	Mapping hostport.Mapping
	Holder  *hostport.Attachment
}

func (e *HeldError) Error() string {
	s := fmt.Sprintf("host port %s is held by %s", e.Mapping, e.Holder.Owner())
	if !e.Holder.Since.IsZero() {
		s += ", since " + e.Holder.Since.UTC().Format(time.RFC3339)
	}
	return s
}

// ListeningError says that processes of the node listen on host ports, where
// the configuration denies that.
type ListeningError struct{ Listeners []listener.Listener }

func (e *ListeningError) Error() string {
	var s []string
	for _, l := range e.Listeners {
		s = append(s, l.String())
	}
	return "a process on the node already listens: " + strings.Join(s, "; ")
}

// DenyListeners returns a *ListeningError if a process of the node listens on
// one of the mappings' host ports.
func (n *Node) DenyListeners(ctx context.Context, ms []hostport.Mapping) error {
	found, err := listener.Find(ctx, ms)
	if err != nil {
		return fmt.Errorf("look for listeners on the node: %w", err)
	}
	if len(found) > 0 {
		return &ListeningError{found}
	}
	return nil
}

// Add makes the attachment's mappings work, and owned. It is idempotent: an
// attachment that is there already is replaced. Ports of owners whose sandbox
// is gone are taken over; a living owner's port is a *HeldError.
func (n *Node) Add(ctx context.Context, want *hostport.Attachment) error {
	n.warnBesideKubeProxy(ctx, want.Backend)
	want.LocalnetVia = n.localnetVia(want)
	return n.with(ctx, want.Backend, func(s *session) error {
		add, err := s.record(want)
		if err != nil {
			return err
		}
		gone, err := s.displaced(want)
		if err != nil {
			return err
		}
		return s.carryOut(ctx, step{remove: gone, add: []*state.Record{add}})
	})
}

// localnetVia is the interface on which 127.0.0.1 has to be let through, or ""
// where no mapping is for 127/8 or no route leads to the pod.
func (n *Node) localnetVia(a *hostport.Attachment) string {
	pod, ok := a.Address(hostport.IPv4)
	if !ok || !a.Options.SNAT {
		return ""
	}
	for _, f := range a.Forwards(hostport.IPv4) {
		if f.HostIP.IsValid() && !f.HostIP.IsLoopback() {
			continue
		}
		via, err := loopback.Via(pod.Addr())
		if err != nil {
			n.Log.Warn("127.0.0.1 will not reach the pod", "pod", pod.Addr(), "reason", err)
			return ""
		}
		return via
	}
	return ""
}

// record is the attachment with the shared objects that it uses.
func (s *session) record(a *hostport.Attachment) (*state.Record, error) {
	b, err := s.backend(a.Backend)
	if err != nil {
		return nil, err
	}
	r := &state.Record{Attachment: *a}
	for _, name := range b.Shares(a) {
		r.Shares = append(r.Shares, state.Share{Of: a.Backend, Name: name})
	}
	if a.LocalnetVia != "" {
		r.Shares = append(r.Shares, state.Share{Of: localnet, Name: a.LocalnetVia})
	}
	return r, nil
}

// displaced are the records that go when want comes: its own earlier one,
// those of dead owners of its ports, and any with its address, because two
// living pods cannot have one address on one node.
func (s *session) displaced(want *hostport.Attachment) ([]*state.Record, error) {
	gone := map[hostport.Key]*state.Record{}
	err := s.View(func(tx *state.Tx) error {
		own, err := tx.Get(want.Key)
		if err != nil {
			return err
		}
		if own != nil {
			gone[own.Key] = own
		}
		for _, p := range want.Addresses {
			same, err := tx.At(p.Addr())
			if err != nil {
				return err
			}
			for _, r := range same {
				if r.ContainerID != want.ContainerID {
					gone[r.Key] = r
				}
			}
		}
		for _, m := range want.Mappings {
			if err := s.contest(tx, want, m, gone); err != nil {
				return err
			}
		}
		return nil
	})
	out := make([]*state.Record, 0, len(gone))
	for _, r := range gone {
		if r.Key != want.Key {
			s.Log.Warn("taking over from an owner that is gone", "owner", r.Owner(), "since", r.Since)
		}
		out = append(out, r)
	}
	return out, err
}

// contest adds the dead holders of a mapping's port to gone, or fails with
// the living one.
func (s *session) contest(tx *state.Tx, want *hostport.Attachment, m hostport.Mapping, gone map[hostport.Key]*state.Record) error {
	holders, err := tx.Holders(m, want.Key)
	if err != nil {
		return err
	}
	for _, h := range holders {
		if gone[h.Key] != nil {
			continue
		}
		alive, err := sandbox.Alive(h.Sandbox)
		if err != nil {
			return fmt.Errorf("see whether %s, which holds host port %s, is alive: %w", h.Owner(), m, err)
		}
		if alive {
			return &HeldError{Mapping: m, Holder: &h.Attachment}
		}
		gone[h.Key] = h
	}
	return nil
}
