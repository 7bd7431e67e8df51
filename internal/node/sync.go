package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// NoStateError says that there is no state where it was looked for.
type NoStateError struct {
	Dir string
	// Owners are the attachments that the rules in the kernel name all the
	// same.
	Owners []*hostport.Attachment
}

// Error says what is known without the state.
func (e *NoStateError) Error() string {
	s := fmt.Sprintf("no state in %s", e.Dir)
	if n := len(e.Owners); n > 0 {
		s += fmt.Sprintf(", but rules of %d attachments in the kernel: they are left as they are, and the plugin records their owners again at its next ADD or CHECK", n)
	}
	return s
}

// Sync rewrites all rules from the records, whatever the kernel holds: after a
// firewall reload, say. Living owners that the rules name and nobody recorded
// are recorded first. Without state it is a *NoStateError, and nothing is
// changed.
func (n *Node) Sync(ctx context.Context) error {
	if !state.Exists(n.Dir) {
		return n.stateMissing(ctx)
	}
	return n.Heal(ctx, backend.Names())
}

// Heal rewrites the rules of these backends from the records, as Sync does for
// all. On a node without state it does nothing.
func (n *Node) Heal(ctx context.Context, names []string) error {
	if !state.Exists(n.Dir) {
		return nil
	}
	return n.with(ctx, func(s *session) error {
		err := s.Update(func(tx *state.Tx) error {
			pending, err := tx.Pending()
			return errors.Join(err, mark(tx, pending, names, nil))
		})
		if err != nil {
			return err
		}
		return s.resync(ctx)
	})
}

// List returns every attachment on the node, ordered by key. It needs no kernel.
// Without state it is a *NoStateError.
func (n *Node) List(ctx context.Context) (all []*hostport.Attachment, err error) {
	if !state.Exists(n.Dir) {
		return nil, &NoStateError{Dir: n.Dir}
	}
	err = n.with(ctx, func(s *session) error {
		all, err = s.records()
		return err
	})
	return all, err
}

// stateMissing returns a *NoStateError.
func (n *Node) stateMissing(ctx context.Context) error {
	owners, err := n.unrecorded(ctx)
	return errors.Join(&NoStateError{n.Dir, owners}, err)
}

// unrecorded returns the owners that the rules in the kernel name, on a node
// without state. The error joins what could not be read.
func (n *Node) unrecorded(ctx context.Context) ([]*hostport.Attachment, error) {
	owners, unread := n.owners(ctx)
	return owners, errors.Join(slices.Collect(maps.Values(unread))...)
}
