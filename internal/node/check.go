package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// DiffersError says that the node differs from the records or from the request,
// one difference a line.
type DiffersError struct{ error }

// Check compares record and kernel with what the attachment should have.
// Differences are a *DiffersError.
func (n *Node) Check(ctx context.Context, want *hostport.Attachment) error {
	return n.change(ctx, func(s *session) error {
		a, err := read(s.Store, func(tx *state.Tx) (*hostport.Attachment, error) { return tx.Get(want.Key) })
		if err != nil {
			return err
		}
		if a == nil {
			return &DiffersError{fmt.Errorf("%s is not recorded", want.Owner())}
		}
		found, err := s.differences(ctx, a)
		if err != nil {
			return err
		}
		differences := []error{recordDiffers(a, want), checkInterface(a)}
		for _, d := range found {
			differences = append(differences, errors.New(d.Text))
		}
		if err := errors.Join(differences...); err != nil {
			return &DiffersError{err}
		}
		return nil
	})
}

// recordDiffers compares the record with what the runtime says now, by what the
// rules do: a record that was read back from the kernel does not have the
// runtime's wording, nor always the prefix length.
func recordDiffers(got, want *hostport.Attachment) error {
	var errs []error
	for _, f := range hostport.Families() {
		recorded, asked := got.Forwards(f), want.Forwards(f)
		if slices.Equal(recorded, asked) {
			continue // without a search for each of thousands
		}
		for _, fw := range slices.Concat(asked, recorded) {
			m := hostport.Mapping{HostIP: fw.HostIP, HostPort: fw.HostPort, Protocol: fw.Protocol}
			if !slices.Contains(recorded, fw) {
				errs = append(errs, fmt.Errorf("mapping %s to %s is not recorded", m, fw.To))
			} else if !slices.Contains(asked, fw) {
				errs = append(errs, fmt.Errorf("mapping %s to %s is recorded, but not in portMappings", m, fw.To))
			}
		}
	}
	if !got.AddedAt.IsZero() && !slices.Equal(got.Addresses, want.Addresses) {
		errs = append(errs, fmt.Errorf("recorded pod addresses are %v, prevResult has %v", got.Addresses, want.Addresses))
	}
	return errors.Join(errs...)
}

func (s *session) differences(ctx context.Context, a *hostport.Attachment) ([]backend.Difference, error) {
	b, err := s.Backend(a.Backend)
	fp, ferr := read(s.Store, func(tx *state.Tx) (hostport.Fingerprint, error) { return tx.Fingerprint(a.Backend) })
	if err = errors.Join(err, ferr); err != nil {
		return nil, err
	}
	return b.Check(ctx, []*hostport.Attachment{a}, fp)
}

// Examined is an attachment and its condition on the node.
type Examined struct {
	*hostport.Attachment
	// Dead is set if the sandbox is gone; LifeErr says why that could not be determined.
	Dead    bool
	LifeErr error
	// Differences are those between the kernel's rules and the record.
	Differences []backend.Difference
}

// Examine returns the records, as Snapshot does, and an Examined for each. It looks
// at the sandbox and the rules only of those that match. It changes nothing.
func (n *Node) Examine(ctx context.Context, match func(*hostport.Attachment) bool) (all *Snapshot, out []Examined, err error) {
	all, err = n.look(ctx, nil, func(s *session, all *Snapshot) (err error) {
		out = make([]Examined, len(all.Attachments))
		for i, a := range all.Attachments {
			out[i].Attachment = a
			if err != nil || !match(a) {
				continue
			}
			out[i].Dead, out[i].LifeErr = s.dead(a)
			if !all.Foreign() {
				out[i].Differences, err = s.differences(ctx, a)
			}
		}
		return err
	})
	return all, out, err
}

// Audit compares the kernel with every record (all), and the records with the sandboxes. It
// reports rules that are missing, differ or have no owner, and attachments whose sandbox is
// gone. It changes nothing, and holds the lock only if other calls keep changing the node.
// Without state the error is a *NoStateError.
func (n *Node) Audit(ctx context.Context) (all *Snapshot, differences []Difference, err error) {
	if err := n.hasState(ctx); err != nil {
		return &Snapshot{}, nil, err
	}
	all, found, err := n.Verify(ctx, nil)
	if errors.Is(err, errRestless) {
		all, err = n.look(ctx, nil, func(_ *session, all *Snapshot) (err error) {
			found, err = n.compare(ctx, all)
			return err
		})
	}
	if all.Foreign() {
		differences = append(differences, Difference{Text: all.Other.Error()})
	}
	dead, _ := all.Dead() // none, if that cannot be determined
	for _, k := range dead {
		differences = append(differences, Difference{Attachment: find(all.Attachments, k), Text: "its sandbox is gone", Dead: true})
	}
	for _, name := range backend.Names() {
		differences = append(differences, found[name]...)
	}
	return all, differences, err
}

// Status returns an error if the node could not serve an ADD on a backend, and
// logs advice.
func (n *Node) Status(ctx context.Context, name string) error {
	b, err := n.Backend(name)
	if err != nil {
		return err
	}
	advice, err := b.Status(ctx)
	if old := backend.OldKernel(); old != "" {
		advice = append(advice, old)
	}
	for _, a := range advice {
		n.Log.Warn(a, "backend", name)
	}
	return errors.Join(state.Usable(n.Dir), err)
}
