package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/internal/loopback"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// DiffersError says that the node is other than it should be.
type DiffersError struct{ Err error }

func (e *DiffersError) Error() string { return e.Err.Error() }

// Unwrap returns the differences.
func (e *DiffersError) Unwrap() error { return e.Err }

// Check compares record and kernel with what the attachment should have. What
// differs comes back as a *DiffersError that names each difference.
func (n *Node) Check(ctx context.Context, want *hostport.Attachment) error {
	if !state.Exists(n.Dir) {
		return &DiffersError{fmt.Errorf("no state in %q: %s is not recorded", n.Dir, want.Owner())}
	}
	return n.with(ctx, want.Backend, func(s *session) error {
		r, err := s.get(want.Key)
		if err != nil {
			return err
		}
		if r == nil {
			return &DiffersError{fmt.Errorf("%s is not recorded", want.Owner())}
		}
		err = errors.Join(differences(&r.Attachment, want), s.check(ctx, &r.Attachment))
		if err != nil {
			return &DiffersError{err}
		}
		return nil
	})
}

// CheckAll checks every attachment on the node: kernel against record, and
// that its sandbox lives. It returns one error for each that fails.
func (n *Node) CheckAll(ctx context.Context) (checked int, failures []error, err error) {
	if !state.Exists(n.Dir) {
		return 0, nil, nil
	}
	err = n.with(ctx, "", func(s *session) error {
		checked, failures = 0, nil
		var all []*hostport.Attachment
		err := s.View(func(tx *state.Tx) error {
			return tx.All(func(r *state.Record) error {
				all = append(all, &r.Attachment)
				return nil
			})
		})
		if err != nil {
			return err
		}
		for _, a := range all {
			checked++
			if alive, err := sandbox.Alive(a.Sandbox); err == nil && !alive {
				failures = append(failures, fmt.Errorf("%s: its sandbox is gone", a.Owner()))
			}
		}
		for _, name := range []string{Iptables, Nftables} {
			var mine []*hostport.Attachment
			for _, a := range all {
				if a.Backend == name {
					mine = append(mine, a)
				}
			}
			if len(mine) == 0 {
				continue
			}
			if err := s.check(ctx, mine...); err != nil {
				failures = append(failures, err)
			}
		}
		return nil
	})
	return checked, failures, err
}

// check compares the kernel with attachments of one backend.
func (s *session) check(ctx context.Context, atts ...*hostport.Attachment) error {
	b, err := s.backend(atts[0].Backend)
	if err != nil {
		return err
	}
	errs := []error{b.Check(ctx, atts)}
	for _, a := range atts {
		if a.LocalnetVia != "" {
			errs = append(errs, loopback.Check(a.LocalnetVia))
		}
	}
	return errors.Join(errs...)
}

// differences compares the record with what the runtime says now.
func differences(got, want *hostport.Attachment) error {
	var errs []error
	for _, m := range want.Mappings {
		if !slices.Contains(got.Mappings, m) {
			errs = append(errs, fmt.Errorf("mapping %s to container port %d is not recorded", m, m.ContainerPort))
		}
	}
	for _, m := range got.Mappings {
		if !slices.Contains(want.Mappings, m) {
			errs = append(errs, fmt.Errorf("mapping %s to container port %d is recorded, but not in portMappings", m, m.ContainerPort))
		}
	}
	if !slices.Equal(got.Addresses, want.Addresses) {
		errs = append(errs, fmt.Errorf("recorded pod addresses are %v, prevResult has %v", got.Addresses, want.Addresses))
	}
	return errors.Join(errs...)
}

// Status reports why the node could not serve an ADD, and logs advice.
func (n *Node) Status(ctx context.Context, backend string) error {
	var errs []error
	if err := state.Usable(n.Dir); err != nil {
		errs = append(errs, err)
	}
	name := n.Choose(ctx, backend)
	n.warnBesideKubeProxy(ctx, name)
	b, err := n.Backend(name)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	advice, err := b.Status(ctx)
	for _, a := range advice {
		n.Log.Warn(a, "backend", name)
	}
	return errors.Join(append(errs, err)...)
}
