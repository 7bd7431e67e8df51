package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/conntrack"
	"github.com/hostport-cni/hostport/internal/fault"
	"github.com/hostport-cni/hostport/internal/loopback"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// apply plans a change from the records and executes it. Where the kernel has
// drifted from them, it is planned once more after a resync, which may have
// recorded owners that were unknown before.
func (s *session) apply(ctx context.Context, build func(*state.Tx) (plan, error)) error {
	for n := 1; ; n++ {
		p, err := view(s.Store, build)
		if err != nil || p.empty() {
			return err
		}
		err = s.execute(ctx, p)
		// Another program may change the rules between a resync and the change.
		if !errors.Is(err, backend.ErrDrift) || n == 3 {
			return err
		}
		s.Log.Warn("the rules in the kernel are not those on record: they were rewritten", "reason", err)
	}
}

// execution is a planned change that is under way.
type execution struct {
	plan
	backends []string
	changes  []backend.Change // of each of the backends
	closing  []string         // interfaces that the change leaves without need
}

// execute carries out one planned change: records and the pending marker, the
// kernel, stale flows, the end of the marker. After an error the records are as
// they were, and the kernel was made to follow them.
func (s *session) execute(ctx context.Context, p plan) error {
	fault.Point(fault.BeforeRecord)
	x := &execution{plan: p, backends: p.backends()}
	if err := s.Update(func(tx *state.Tx) error { return s.record(tx, x) }); err != nil {
		return fmt.Errorf("record change: %w", err)
	}
	fault.Point(fault.AfterRecord)
	if err := s.program(ctx, x); err != nil {
		return s.rollBack(ctx, p, err)
	}
	s.flush(ctx, slices.Concat(p.remove, p.add))
	fault.Point(fault.AfterFlows)
	err := s.Update(func(tx *state.Tx) error {
		for i, name := range x.backends {
			if err := tx.SetSeen(name, x.changes[i].Seen); err != nil {
				return err
			}
		}
		return errors.Join(each(x.closing, func(ifname string) error { return tx.SetOpened(ifname, false) }), s.unmark(tx, x.backends))
	})
	if err != nil {
		return fmt.Errorf("record end of change: %w", err)
	}
	fault.Point(fault.AfterDone)
	return nil
}

// record writes the records as they are to be, adds the change to what is pending,
// and prepares the backends' parts of it.
func (s *session) record(tx *state.Tx, x *execution) error {
	var errs []error
	for _, name := range x.backends {
		before, err := tx.Fingerprint(name)
		errs = append(errs, err)
		x.changes = append(x.changes, backend.Change{
			Remove: of(name, x.remove), Add: of(name, x.add), Before: before, Seen: tx.Seen(name),
			Others: &others{s.Store, name, x.add},
		})
	}
	errs = append(errs, x.write(tx))
	for i, name := range x.backends {
		after, err := tx.Fingerprint(name)
		errs = append(errs, err)
		x.changes[i].After = after
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	x.closing = tx.Needless()
	return s.mark(tx, x.backends, slices.Concat(x.remove, x.add))
}

// write makes the records follow the plan.
func (p plan) write(tx *state.Tx) error {
	if err := each(p.remove, tx.Delete); err != nil {
		return err
	}
	return each(p.add, func(a *hostport.Attachment) error { return errors.Join(tx.Put(a), claimInterface(tx, a)) })
}

// each calls fn for all until it fails.
func each[T any](all []T, fn func(T) error) error {
	for _, x := range all {
		if err := fn(x); err != nil {
			return err
		}
	}
	return nil
}

// program changes the kernel. 127/8 is closed before the rules that guard it
// go, and opened after they came.
func (s *session) program(ctx context.Context, x *execution) error {
	if err := each(x.closing, loopback.Close); err != nil {
		return err
	}
	for i, name := range x.backends {
		b, err := s.Backend(name)
		if err != nil {
			return err
		}
		x.changes[i].Seen, err = b.Apply(ctx, x.changes[i])
		if old := backend.OldKernel(); err != nil && old != "" && !errors.Is(err, backend.ErrDrift) && !Busy(err) {
			return fmt.Errorf("%w (%s)", err, old)
		}
		if err != nil {
			return err
		}
	}
	fault.Point(fault.AfterKernel)
	if err := openInterfaces(x.add); err != nil {
		return err
	}
	fault.Point(fault.AfterSysctl)
	return nil
}

// flush removes the UDP flows to ports of these attachments, which would go on
// to where their port led before. It comes too late to fail the change, which
// the kernel has taken.
func (s *session) flush(ctx context.Context, changed []*hostport.Attachment) {
	var forwards []hostport.Forward
	for _, a := range changed {
		for _, f := range hostport.Families() {
			forwards = append(forwards, a.Forwards(f)...)
		}
	}
	if _, err := conntrack.Flush(ctx, forwards); err != nil {
		s.Log.Warn("stale UDP flows may remain", "reason", err)
	}
}

// rollBack puts the records back as they were before a change that failed, and
// makes the kernel follow them.
func (s *session) rollBack(ctx context.Context, p plan, reason error) error {
	if err := s.Update(plan{remove: p.add, add: p.remove}.write); err != nil {
		return errors.Join(reason, fmt.Errorf("take back the record of a change that failed: %w", err))
	}
	// The change may have been cancelled. What it left is not. A resync takes time
	// beyond the wait for locks.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Timeout+10*time.Second)
	defer cancel()
	return errors.Join(reason, s.resync(ctx))
}

// of returns the attachments of a backend.
func of(name string, all []*hostport.Attachment) (out []*hostport.Attachment) {
	for _, a := range all {
		if a.Backend == name {
			out = append(out, a)
		}
	}
	return out
}

// others answers a backend's questions from the records. The removed attachments
// of a change are not among them any more.
type others struct {
	*state.Store
	backend string
	added   []*hostport.Attachment
}

func (o *others) InUse(f hostport.Family, p hostport.Protocol, first, last uint16) (bool, error) {
	return view(o.Store, func(tx *state.Tx) (bool, error) { return tx.InUse(o.backend, f, p, first, last, o.added) })
}

func (o *others) Any(match func(*hostport.Attachment) bool) (bool, error) {
	return view(o.Store, func(tx *state.Tx) (bool, error) {
		for a, err := range tx.All() {
			if err != nil {
				return false, err
			}
			if a.Backend == o.backend && find(o.added, a.Key) == nil && match(a) {
				return true, nil
			}
		}
		return false, nil
	})
}
