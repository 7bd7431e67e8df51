package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Dirs are the state directories of one node: its networks may name several.
type Dirs []*Node

// Holders removes dead attachments and returns the others. A process that may not see
// the node's sandboxes removes nothing: it gets all attachments, and an error that wraps
// ErrUnseen. With ReadOnly it only leaves the dead out. It also returns owners that a
// resync would adopt. Rules that cannot be read are an error: if there is no state, or
// it was lost, they may be those of a pod without a record.
func (d Dirs) Holders(ctx context.Context) (all []*hostport.Attachment, unseen error) {
	for _, n := range d {
		some, err := n.holders(ctx)
		if missing, ok := errors.AsType[*NoStateError](err); ok && len(missing.Owners) == 0 && missing.Unread == nil {
			continue
		}
		if errors.Is(err, ErrUnseen) {
			unseen = err
		} else if err != nil {
			return nil, fmt.Errorf("look for pods that hold ports: %w", err)
		}
		all = append(all, some...)
	}
	return all, unseen
}

func (n *Node) holders(ctx context.Context) (all []*hostport.Attachment, err error) {
	if n.ReadOnly {
		err = n.hasState(ctx)
	} else {
		_, err = n.Prune(ctx)
	}
	if err != nil && !errors.Is(err, ErrUnseen) {
		return nil, err
	}
	_, err = n.look(ctx, nil, func(s *session, recorded *Snapshot) error {
		var found []*hostport.Attachment
		if len(s.pending.Backends) > 0 { // else every owner is recorded
			var unread failures
			found, unread = s.owners(ctx)
			if err := each(s.pending.Backends, func(name string) error { return unread[name] }); err != nil {
				return err
			}
		}
		p, _ := planAdopt(recorded.Attachments, found, s.pending.Changed, s.origin, s.dead)
		all = append(without(recorded.Attachments, p.remove), p.add...)
		if len(all) > 0 && !bool(s.sight) {
			return ErrUnseen
		}
		return nil
	})
	return all, err
}

// Release deletes an attachment from whichever directory has it.
func (d Dirs) Release(ctx context.Context, a *hostport.Attachment) error {
	return each(d, func(n *Node) error {
		_, err := n.Delete(ctx, a.Key, a.Network, false)
		return err
	})
}

// Remove removes the directories at the end of an installation. All rules were
// removed with the last attachment.
func (d Dirs) Remove() error {
	var errs []error
	for _, n := range d {
		errs = append(errs, state.Remove(n.Dir))
	}
	return errors.Join(errs...)
}
