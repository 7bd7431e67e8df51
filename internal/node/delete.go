package node

import (
	"context"
	"slices"

	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Delete removes an attachment and returns what was recorded of it, or nil. It
// needs nothing but the key, and an attachment that is not recorded is no error.
// On a node without state nothing is done, unless the attachment is known to
// have had mappings: then the state was lost and is read back from the kernel,
// or portmap served the network until now and its pods are adopted.
func (n *Node) Delete(ctx context.Context, k hostport.Key, network string, mapped bool) (removed *hostport.Attachment, err error) {
	if !state.Exists(n.Dir) {
		if !mapped {
			return nil, nil
		}
		n.adoptFirst(ctx, network)
		// A state is not made for a pod whose ADD failed, on a full disk for instance.
		if owners, err := n.unrecorded(ctx); len(owners) == 0 && err == nil && !state.Exists(n.Dir) {
			return nil, nil
		}
	}
	err = n.change(ctx, func(s *session) error {
		return s.apply(ctx, func(tx *state.Tx) (plan, error) {
			a, err := tx.Get(k)
			if err != nil || a == nil {
				return plan{}, err
			}
			removed = a
			return plan{remove: []*hostport.Attachment{a}}, nil
		})
	})
	return removed, err
}

// Forget removes what an earlier ADD of an attachment recorded, for one that has
// no mappings now. It returns what that was, or nil. An attachment that the state
// does not mention costs a look at the file, and waits for no other call.
func (n *Node) Forget(ctx context.Context, k hostport.Key) (removed *hostport.Attachment, err error) {
	if !state.Mentions(n.Dir, k) {
		return nil, nil
	}
	return n.Delete(ctx, k, "", false)
}

// GC removes, in one change, the network's attachments that are not among
// valid. If the runtime did not list the valid ones, or the network of an
// attachment is unknown because the state was lost once, only those go whose
// sandbox is gone.
func (n *Node) GC(ctx context.Context, network string, valid []hostport.Key, listed bool) error {
	_, err := n.remove(ctx, func(s *session, a *hostport.Attachment) (bool, error) {
		switch {
		case slices.Contains(valid, a.Key) || a.Network != "" && a.Network != network:
			return false, nil
		case listed && a.Network == network:
			return true, nil
		default:
			return s.dead(a)
		}
	})
	return err
}

// Prune removes, in one change, every attachment whose sandbox is gone: what is
// left when a DEL never came. It returns what it removed. A process that may
// not see the node's sandboxes gets an error that says how to run it.
func (n *Node) Prune(ctx context.Context) ([]*hostport.Attachment, error) {
	if !state.Exists(n.Dir) {
		return nil, n.stateMissing(ctx)
	}
	return n.remove(ctx, (*session).dead)
}

// dead reports whether the sandbox of an attachment is known to be gone.
func (s *session) dead(a *hostport.Attachment) (bool, error) {
	if !s.sees {
		return false, errUnseen
	}
	life, err := s.life(a)
	return life == sandbox.Dead, err
}

// remove deletes every record for which stale returns true, in one change, and
// returns those records.
func (n *Node) remove(ctx context.Context, stale func(*session, *hostport.Attachment) (bool, error)) (removed []*hostport.Attachment, err error) {
	err = n.change(ctx, func(s *session) error {
		return s.apply(ctx, func(tx *state.Tx) (plan, error) {
			removed = nil
			err := tx.All(func(a *hostport.Attachment) error {
				yes, err := stale(s, a)
				if yes {
					removed = append(removed, a)
				}
				return err
			})
			return plan{remove: removed}, err
		})
	})
	if err != nil {
		return nil, err
	}
	return removed, nil
}
