package node

import (
	"context"
	"errors"
	"slices"

	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Unseen reports whether an error means that the process may not see the node's
// sandboxes, and so calls nobody dead.
func Unseen(err error) bool { return errors.Is(err, errUnseen) }

// Dead returns the attachments of a Snapshot whose sandbox is gone. Those of
// which that cannot be told are not among them. It takes no lock.
func (n *Node) Dead(s *Snapshot) (dead []hostport.Key, err error) {
	if len(s.Attachments) == 0 {
		return nil, nil
	}
	own, err := sandbox.OwnView()
	if err != nil {
		return nil, err
	}
	if !n.Runtime && !own.Sees(sandbox.View(s.view)) {
		return nil, errUnseen
	}
	for _, a := range s.Attachments {
		if _, life, err := sandbox.Look(a.Sandbox); err == nil && life == sandbox.Dead {
			dead = append(dead, a.Key)
		}
	}
	return dead, nil
}

// PruneAmong is Prune for some attachments: those of them go whose sandbox is
// gone still.
func (n *Node) PruneAmong(ctx context.Context, some []hostport.Key) ([]*hostport.Attachment, error) {
	if !state.Exists(n.Dir) {
		return nil, nil
	}
	return n.remove(ctx, func(s *session, a *hostport.Attachment) (bool, error) {
		if !slices.Contains(some, a.Key) {
			return false, nil
		}
		return s.dead(a)
	})
}
