package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/fault"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// attempts is how often a change is planned and executed before drift is an
// error: another program may change the rules between a resync and the change.
const attempts = 3

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
		if !errors.Is(err, backend.ErrDrift) || n == attempts {
			return err
		}
		s.Log.Warn("the rules in the kernel are not those on record: they were rewritten", "reason", err)
	}
}

// execute carries out one planned change: records and the pending marker, the
// kernel, stale flows, the end of the marker. After an error the records are as
// they were, and the kernel was made to follow them.
func (s *session) execute(ctx context.Context, p plan) error {
	fault.Point(fault.BeforeRecord)
	var changes []backendChange
	var before *state.Pending
	err := s.Update(func(tx *state.Tx) (err error) {
		if before, err = tx.Pending(); err == nil {
			changes, err = s.begin(tx, p, before)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("record change: %w", err)
	}
	fault.Point(fault.AfterRecord)
	if err := s.program(ctx, p, changes); err != nil {
		return s.rollBack(ctx, p, err)
	}
	s.flush(ctx, p.remove, p.add)
	fault.Point(fault.AfterFlows)
	err = s.Update(func(tx *state.Tx) error {
		for _, c := range changes {
			if err := tx.SetSeen(c.name, c.Seen); err != nil {
				return err
			}
		}
		if err := forgetInterfaces(tx, p.remove); err != nil {
			return err
		}
		return unmark(tx, before, p.backends())
	})
	if err != nil {
		return fmt.Errorf("record end of change: %w", err)
	}
	fault.Point(fault.AfterDone)
	return nil
}

// backendChange is one backend's part of a change.
type backendChange struct {
	name string
	backend.Change
}

// begin writes the records as they are to be, and adds the change to what is
// pending.
func (s *session) begin(tx *state.Tx, p plan, pending *state.Pending) ([]backendChange, error) {
	names := p.backends()
	changes := make([]backendChange, len(names))
	for i, name := range names {
		before, err := tx.Fingerprint(name)
		if err != nil {
			return nil, err
		}
		changes[i] = backendChange{name, backend.Change{
			Remove: of(name, p.remove), Add: of(name, p.add), Before: before, Seen: tx.Seen(name),
			Others: &others{s.Store, name, keys(p.add)},
		}}
	}
	if err := record(tx, p); err != nil {
		return nil, err
	}
	for i, name := range names {
		after, err := tx.Fingerprint(name)
		if err != nil {
			return nil, err
		}
		changes[i].After = after
	}
	for _, a := range p.add {
		if err := claimInterface(tx, a.LoopbackInterface); err != nil {
			return nil, err
		}
	}
	return changes, mark(tx, pending, names, slices.Concat(p.remove, p.add))
}

// record makes the records follow the plan.
func record(tx *state.Tx, p plan) error {
	for _, a := range p.remove {
		if err := tx.Delete(a); err != nil {
			return err
		}
	}
	for _, a := range p.add {
		if err := tx.Put(a); err != nil {
			return err
		}
	}
	return nil
}

// mark adds to what is pending that the rules of these backends may not be as
// recorded, and whose flows may be stale.
func mark(tx *state.Tx, pending *state.Pending, names []string, changed []*hostport.Attachment) error {
	next := state.Pending{Backends: names, Changed: changed}
	if pending != nil {
		next.Backends = slices.Concat(pending.Backends, names)
		next.Changed = slices.Concat(pending.Changed, changed)
	}
	return tx.SetPending(&next)
}

// unmark leaves of what was pending the backends whose rules are not as recorded
// yet.
func unmark(tx *state.Tx, pending *state.Pending, done []string) error {
	var left state.Pending
	if pending != nil {
		left.Backends = slices.DeleteFunc(slices.Clone(pending.Backends), func(n string) bool { return slices.Contains(done, n) })
	}
	return tx.SetPending(&left)
}

// program changes the kernel. 127/8 is closed before the rules that guard it
// go, and opened after they came.
func (s *session) program(ctx context.Context, p plan, changes []backendChange) error {
	if err := s.closeInterfaces(p.remove); err != nil {
		return err
	}
	for i := range changes {
		c := &changes[i]
		b, err := s.Backend(c.name)
		if err != nil {
			return err
		}
		if c.Seen, err = b.Apply(ctx, c.Change); err != nil {
			return onOldKernel(err)
		}
	}
	fault.Point(fault.AfterKernel)
	if err := openInterfaces(p.add); err != nil {
		return err
	}
	fault.Point(fault.AfterSysctl)
	return nil
}

// rollBack puts the records back as they were before a change that failed, and
// makes the kernel follow them.
func (s *session) rollBack(ctx context.Context, p plan, reason error) error {
	back := plan{remove: p.add, add: p.remove}
	err := s.Update(func(tx *state.Tx) error { return record(tx, back) })
	if err != nil {
		return errors.Join(reason, fmt.Errorf("take back the record of a change that failed: %w", err))
	}
	// The change may have been cancelled. What it left is not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Timeout+resyncTime)
	defer cancel()
	return errors.Join(reason, s.resync(ctx))
}

func of(name string, all []*hostport.Attachment) []*hostport.Attachment {
	var out []*hostport.Attachment
	for _, a := range all {
		if a.Backend == name {
			out = append(out, a)
		}
	}
	return out
}

func keys(all []*hostport.Attachment) []hostport.Key {
	out := make([]hostport.Key, len(all))
	for i, a := range all {
		out[i] = a.Key
	}
	return out
}

// others answers a backend's questions from the records. The removed attachments
// of a change are not among them any more.
type others struct {
	*state.Store
	backend string
	added   []hostport.Key
}

func (o *others) InUse(f hostport.Family, p hostport.Protocol, first, last uint16) (bool, error) {
	return view(o.Store, func(tx *state.Tx) (bool, error) { return tx.InUse(o.backend, f, p, first, last, o.added) })
}

var errFound = errors.New("found")

func (o *others) Any(match func(*hostport.Attachment) bool) (bool, error) {
	err := o.View(func(tx *state.Tx) error {
		return tx.All(func(a *hostport.Attachment) error {
			if a.Backend == o.backend && !slices.Contains(o.added, a.Key) && match(a) {
				return errFound
			}
			return nil
		})
	})
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, err
}
