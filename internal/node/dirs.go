package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Dirs are the state directories of one node: its networks may name several.
type Dirs []*Node

// Holders removes what pods that are gone have left, and returns the attachments
// that stay. A process that may not see the node's sandboxes removes nothing: it
// gets all attachments, and an error for which Unseen is true.
func (d Dirs) Holders(ctx context.Context) ([]*hostport.Attachment, error) {
	var all []*hostport.Attachment
	var unseen error
	for _, n := range d {
		_, err := n.Prune(ctx)
		if missing, ok := errors.AsType[*NoStateError](err); ok && len(missing.Owners) == 0 {
			continue
		}
		if Unseen(err) {
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
	for _, n := range d {
		if _, err := n.Delete(ctx, a.Key, a.Network, false); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes the directories. The last attachment took all rules with it.
func (d Dirs) Remove() error {
	var errs []error
	for _, n := range d {
		errs = append(errs, n.RemoveState())
	}
	return errors.Join(errs...)
}
