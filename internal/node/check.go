package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/loopback"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// DiffersError says that the node is not as it is recorded or asked for.
type DiffersError struct{ Err error }

// Error names each difference in a line.
func (e *DiffersError) Error() string { return e.Err.Error() }

// Unwrap returns the differences.
func (e *DiffersError) Unwrap() error { return e.Err }

// Check compares record and kernel with what the attachment should have. What
// differs comes back as a *DiffersError that names each difference.
func (n *Node) Check(ctx context.Context, want *hostport.Attachment) error {
	return n.change(ctx, func(s *session) error {
		a, err := view(s.Store, func(tx *state.Tx) (*hostport.Attachment, error) { return tx.Get(want.Key) })
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
		differences := []error{recordDiffers(a, want)}
		for _, text := range found {
			differences = append(differences, errors.New(text))
		}
		if a.LoopbackInterface != "" {
			differences = append(differences, loopback.Check(a.LoopbackInterface))
		}
		if err := errors.Join(differences...); err != nil {
			return &DiffersError{err}
		}
		return nil
	})
}

// recordDiffers compares the record with what the runtime says now. A record
// that was read back from the kernel knows what its rules do, and not in which
// words the runtime asked for them.
func recordDiffers(got, want *hostport.Attachment) error {
	if got.AddedAt.IsZero() {
		return forwardsDiffer(got, want)
	}
	errs := differ(got.Mappings, want.Mappings, func(m hostport.Mapping) string {
		return fmt.Sprintf("mapping %s to container port %d", m, m.ContainerPort)
	})
	if !slices.Equal(got.Addresses, want.Addresses) {
		errs = append(errs, fmt.Errorf("recorded pod addresses are %v, prevResult has %v", got.Addresses, want.Addresses))
	}
	return errors.Join(errs...)
}

func forwardsDiffer(got, want *hostport.Attachment) error {
	var errs []error
	for _, f := range hostport.Families() {
		errs = append(errs, differ(got.Forwards(f), want.Forwards(f), func(fw hostport.Forward) string {
			return fmt.Sprintf("%s: %d/%s to %s", f, fw.HostPort, fw.Protocol, fw.To)
		})...)
	}
	return errors.Join(errs...)
}

// differ compares what is recorded with what the runtime asks for.
func differ[T comparable](got, want []T, name func(T) string) (errs []error) {
	for _, x := range want {
		if !slices.Contains(got, x) {
			errs = append(errs, fmt.Errorf("%s is not recorded", name(x)))
		}
	}
	for _, x := range got {
		if !slices.Contains(want, x) {
			errs = append(errs, fmt.Errorf("%s is recorded, but not in portMappings", name(x)))
		}
	}
	return errs
}

// Audit compares the kernel with every record, and the records with the
// sandboxes: what is missing, what differs, what is there for nobody, and whose
// sandbox is gone. It changes nothing. checked counts the attachments. Without
// state the error is a *NoStateError, and the differences are owners that only
// the kernel knows.
func (n *Node) Audit(ctx context.Context) (checked int, differences []Difference, err error) {
	if !state.Exists(n.Dir) {
		return n.auditUnrecorded(ctx)
	}
	err = n.with(ctx, func(s *session) error {
		checked, differences = 0, nil
		all, err := s.snapshot(nil)
		if err != nil {
			return err
		}
		checked = len(all.Attachments)
		for _, a := range all.Attachments {
			if life, err := s.life(a); err == nil && life == sandbox.Dead {
				differences = append(differences, Difference{Attachment: a, Text: "its sandbox is gone"})
			}
		}
		found, err := n.compare(ctx, all)
		for _, name := range backend.Names() {
			differences = append(differences, found[name]...)
		}
		return err
	})
	return checked, differences, err
}

// Difference is one way in which the node is not as it is recorded.
type Difference struct {
	// Attachment is the one that it concerns, nil for all of them.
	Attachment *hostport.Attachment
	Text       string
}

// String begins with the owner.
func (d Difference) String() string {
	if d.Attachment == nil {
		return d.Text
	}
	return d.Attachment.Owner() + ": " + d.Text
}

// auditUnrecorded says whom the rules in the kernel name on a node without
// state. The error is a *NoStateError.
func (n *Node) auditUnrecorded(ctx context.Context) (checked int, differences []Difference, err error) {
	owners, err := n.unrecorded(ctx)
	for _, a := range owners {
		differences = append(differences, Difference{
			Attachment: a,
			Text:       fmt.Sprintf("has rules of backend %s in the kernel and no record: no state in %s", a.Backend, n.Dir),
		})
	}
	return 0, differences, errors.Join(err, &NoStateError{n.Dir, owners})
}

// Status reports why the node could not serve an ADD on a backend, and logs
// advice.
func (n *Node) Status(ctx context.Context, name string) error {
	n.warnBesideKubeProxy(ctx, name)
	errs := []error{state.Usable(n.Dir)}
	b, err := n.Backend(name)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	advice, err := b.Status(ctx)
	if old := backend.OldKernel(); old != "" {
		advice = append(advice, old)
	}
	for _, a := range advice {
		n.Log.Warn(a, "backend", name)
	}
	return errors.Join(append(errs, err)...)
}
