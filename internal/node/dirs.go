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

// Holders removes what pods that are gone have left, and returns the attachments
// that stay. A process that may not see the node's sandboxes removes nothing: it
// gets all attachments, and an error that wraps ErrUnseen.
func (d Dirs) Holders(ctx context.Context) (all []*hostport.Attachment, unseen error) {
	for _, n := range d {
		_, err := n.Prune(ctx)
		if missing, ok := errors.AsType[*NoStateError](err); ok && len(missing.Owners) == 0 {
			continue
		}
		if errors.Is(err, ErrUnseen) {
			unseen = err
		} else if err != nil {
			return nil, fmt.Errorf("remove dead owners: %w", err)
		}
		some, err := n.List(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, unseen
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
