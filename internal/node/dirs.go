package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Dirs are the state directories of one node: its networks may name several.
type Dirs []*Node

// Holders removes what pods that are gone have left, and returns the attachments
// that stay. A process that may not see the node's sandboxes removes nothing: it
// gets all attachments, and an error that wraps ErrUnseen. A node that is ReadOnly
// keeps what would be removed. Rules that cannot be read may be those of a pod that is not
// recorded, without state or since it was lost: that is an error.
func (d Dirs) Holders(ctx context.Context) (all []*hostport.Attachment, unseen error) {
	for _, n := range d {
		gone, err := n.removeDead(ctx)
		if missing, ok := errors.AsType[*NoStateError](err); ok && len(missing.Owners) == 0 && missing.Unread == nil {
			continue
		}
		if errors.Is(err, ErrUnseen) {
			unseen = err
		} else if err != nil {
			return nil, fmt.Errorf("remove dead owners: %w", err)
		}
		some, err := n.Snapshot(ctx, nil)
		if err != nil {
			return nil, err
		}
		if err := n.strangers(ctx, some.pending); err != nil {
			return nil, err
		}
		for _, a := range some.Attachments {
			if !slices.Contains(gone, a.Key) {
				all = append(all, a)
			}
		}
	}
	return all, unseen
}

// strangers returns an error if the rules of these backends may name attachments that are
// not recorded: they are to be rewritten, and cannot be read.
func (n *Node) strangers(ctx context.Context, pending []string) error {
	if len(pending) == 0 {
		return nil
	}
	_, unread := n.owners(ctx)
	var errs []error
	for _, name := range pending {
		errs = append(errs, unread[name])
	}
	return errors.Join(errs...)
}

// removeDead calls Prune. It returns the dead that are still recorded: all of them, if
// nothing may be changed.
func (n *Node) removeDead(ctx context.Context) ([]hostport.Key, error) {
	if !n.ReadOnly {
		_, err := n.Prune(ctx)
		return nil, err
	}
	s, err := n.Snapshot(ctx, nil)
	if err = errors.Join(n.hasState(ctx), err); err != nil {
		return nil, err
	}
	return s.Dead()
}

// Release deletes an attachment from whichever directory has it.
func (d Dirs) Release(ctx context.Context, a *hostport.Attachment) error {
	return each(d, func(n *Node) error {
		_, err := n.Delete(ctx, a.Key, a.Network, false)
		return err
	})
}

// Remove removes the directories at the end of an installation. The last attachment
// took all rules with it.
func (d Dirs) Remove() error {
	var errs []error
	for _, n := range d {
		errs = append(errs, state.Remove(n.Dir))
	}
	return errors.Join(errs...)
}
