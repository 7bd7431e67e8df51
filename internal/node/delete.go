package node

import (
	"context"
	"slices"

	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Delete removes an attachment. It needs nothing but the key, and one that is
// not recorded is no error. A node without state is left alone. It returns
// what was recorded, or nil.
func (n *Node) Delete(ctx context.Context, k hostport.Key) (removed *hostport.Attachment, err error) {
	if !state.Exists(n.Dir) {
		return nil, nil
	}
	err = n.with(ctx, "", func(s *session) error {
		r, err := s.get(k)
		if err != nil || r == nil {
			return err
		}
		removed = &r.Attachment
		return s.carryOut(ctx, step{remove: []*state.Record{r}})
	})
	return removed, err
}

// GC removes the network's attachments that are not among valid, in one
// change. An attachment whose network is unknown, because the state was lost
// once, goes only when its sandbox is gone.
func (n *Node) GC(ctx context.Context, network string, valid []hostport.Key) error {
	return n.remove(ctx, func(r *state.Record) (bool, error) {
		if slices.Contains(valid, r.Key) {
			return false, nil
		}
		if r.Network == "" {
			alive, err := sandbox.Alive(r.Sandbox)
			return !alive, err
		}
		return r.Network == network, nil
	})
}

// Prune removes every attachment whose sandbox is gone: what a DEL that never
// came has left behind. It returns what it removed.
func (n *Node) Prune(ctx context.Context) ([]*hostport.Attachment, error) {
	var pruned []*hostport.Attachment
	err := n.remove(ctx, func(r *state.Record) (bool, error) {
		alive, err := sandbox.Alive(r.Sandbox)
		if err != nil || alive {
			return false, err
		}
		pruned = append(pruned, &r.Attachment)
		return true, nil
	})
	return pruned, err
}

// remove takes away, in one change, all that gone tells to.
func (n *Node) remove(ctx context.Context, gone func(*state.Record) (bool, error)) error {
	if !state.Exists(n.Dir) {
		return nil
	}
	return n.with(ctx, "", func(s *session) error {
		var st step
		err := s.View(func(tx *state.Tx) error {
			st = step{}
			return tx.All(func(r *state.Record) error {
				yes, err := gone(r)
				if yes {
					st.remove = append(st.remove, r)
				}
				return err
			})
		})
		if err != nil {
			return err
		}
		return s.carryOut(ctx, st)
	})
}
