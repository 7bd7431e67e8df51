package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/listener"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// ListeningError says that processes of the node listen on host ports, where
// the configuration denies that.
type ListeningError struct{ Listeners []listener.Listener }

// Error names each socket with its process.
func (e *ListeningError) Error() string {
	var s []string
	for _, l := range e.Listeners {
		s = append(s, l.String())
	}
	return "a process on the node already listens: " + strings.Join(s, "; ")
}

// DenyListeners returns a *ListeningError if a process of the node listens on
// one of the host ports that an attachment wants.
func (n *Node) DenyListeners(ctx context.Context, want *hostport.Attachment) error {
	found, err := listener.Find(ctx, want.Mappings)
	if err != nil {
		return fmt.Errorf("look for listeners on the node: %w", err)
	}
	if len(found) > 0 {
		err := &ListeningError{found}
		n.refused(want, err)
		return err
	}
	return nil
}

// Add makes the attachment's mappings work, and owned. It is idempotent: an
// attachment that is there already is replaced. On a node without state the
// pods that portmap served in its network are adopted first. Ports of owners
// whose sandbox is gone, and of an earlier sandbox of the same pod, are taken over; another
// living owner's port or address is a *ConflictError.
func (n *Node) Add(ctx context.Context, want *hostport.Attachment) error {
	n.adoptFirst(ctx, want.Network)
	err := n.addOne(ctx, want)
	n.refused(want, err)
	return err
}

func (n *Node) addOne(ctx context.Context, want *hostport.Attachment) error {
	n.warnBesideKubeProxy(ctx, want.Backend)
	want.LoopbackInterface = n.loopbackInterface(want)
	return n.change(ctx, func(s *session) error {
		want.Boot, want.State = s.boot, s.id
		err := s.add(ctx, want)
		if errors.Is(err, backend.ErrNoGuard) && want.LoopbackInterface != "" {
			s.Log.Warn("127.0.0.1 will not reach the pod: 127.0.0.0/8 cannot be guarded", "owner", want.Owner(), "reason", err)
			want.LoopbackInterface = ""
			return s.add(ctx, want)
		}
		return err
	})
}

func (s *session) add(ctx context.Context, want *hostport.Attachment) error {
	var p plan
	err := s.apply(ctx, func(tx *state.Tx) (plan, error) {
		found, err := inTheWay(tx, want)
		if err != nil {
			return plan{}, err
		}
		p, err = planAdd(want, found, s.life)
		return p, err
	})
	if err != nil {
		return err
	}
	for _, a := range p.remove {
		if a.Key != want.Key {
			s.count("takeover", 0)
			s.Log.Warn("took over from an owner that is gone", "owner", a.Owner(), "since", a.AddedAt)
		}
	}
	return nil
}

// inTheWay reads the records that may have to go when want comes, each once.
func inTheWay(tx *state.Tx, want *hostport.Attachment) ([]*hostport.Attachment, error) {
	found, err := tx.Neighbours(want)
	if err != nil {
		return nil, err
	}
	own, err := tx.Get(want.Key)
	if own != nil {
		found = append([]*hostport.Attachment{own}, found...)
	}
	return found, err
}
