package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/fault"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// resyncTime is what a resync after a failed change may take beyond the wait for
// locks.
const resyncTime = 10 * time.Second

// recover resyncs the backends that an earlier call left marked: it was killed
// in the middle of a change, or the state is new, of another boot or of another
// version of the plugin. A backend that cannot be resynced stays marked, and
// does not keep pods of the other one from starting and ending.
func (s *session) recover(ctx context.Context) error {
	pending, err := s.pending()
	if err != nil || pending == nil {
		return err
	}
	if err := s.resync(ctx); err != nil {
		if errors.Is(err, state.ErrDamaged) {
			return err
		}
		s.Log.Warn("out of sync: rules could not be rewritten", "reason", err)
	}
	return nil
}

// resync makes records and kernel agree. It reads the owners that the rules in
// the kernel name, in both backends, adopts those that live and are not
// recorded, drops the records of the dead, and rewrites all rules of the
// backends that are marked, or that name somebody else than the records do.
func (s *session) resync(ctx context.Context) error {
	found, unread := s.owners(ctx)
	for name, err := range unread {
		s.Log.Warn("owners could not be read from all rules", "backend", name, "reason", err)
	}
	dropped, err := s.adopt(found)
	if err != nil {
		return err
	}
	fault.Point(fault.AfterAdopt)
	pending, err := s.pending()
	if err != nil || pending == nil {
		return err
	}
	changed := slices.Concat(pending.Changed, dropped)
	if err := s.closeInterfaces(changed); err != nil {
		return err
	}
	var errs []error
	var done []string
	for _, name := range pending.Backends {
		if err := s.rewrite(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("rewrite the rules of backend %s: %w", name, err))
			continue
		}
		// What could not be read may name living owners: it is read again.
		if unread[name] == nil {
			done = append(done, name)
		} else {
			errs = append(errs, unread[name])
		}
	}
	fault.Point(fault.AfterRewrite)
	s.openAllInterfaces()
	s.flush(ctx, changed)
	errs = append(errs, s.Update(func(tx *state.Tx) error {
		return errors.Join(forgetInterfaces(tx, changed), unmark(tx, pending, done))
	}))
	return errors.Join(errs...)
}

// owners reads the owners that the rules in the kernel name, by backend. A
// backend that cannot be read tells what it can.
func (n *Node) owners(ctx context.Context) (found []*hostport.Attachment, unread map[string]error) {
	unread = make(map[string]error)
	for _, name := range backend.Names() {
		owners, err := n.backends()[name].Owners(ctx)
		if err != nil {
			unread[name] = fmt.Errorf("read the owners in the rules of backend %s: %w", name, err)
		}
		found = append(found, owners...)
	}
	return found, unread
}

// adopt makes the records follow planAdopt, marks the backends whose rules that
// changes, and returns the records that it dropped.
func (s *session) adopt(found []*hostport.Attachment) (dropped []*hostport.Attachment, err error) {
	var p plan
	err = s.Update(func(tx *state.Tx) error {
		records, err := tx.Records()
		if err != nil {
			return err
		}
		pending, err := tx.Pending()
		if err != nil {
			return err
		}
		found = slices.DeleteFunc(found, func(a *hostport.Attachment) bool { return withdrawn(a.Key, records, pending) })
		var refused []*ConflictError
		p, refused = planAdopt(records, found, origin{s.boot, s.id}, s.life)
		for _, r := range refused {
			s.Log.Warn("rules of an unknown attachment are removed: its port is held", "reason", r)
		}
		for _, a := range p.add {
			// What rules do not tell.
			if path, _, _ := sandbox.Look(a.Sandbox); path != "" {
				a.Sandbox.Path = path
			}
			a.LoopbackInterface = s.loopbackInterface(a)
		}
		if err := record(tx, p); err != nil {
			return err
		}
		for _, a := range p.add {
			if a.LoopbackInterface == "" {
				continue
			}
			// Whether we set it is not known any more. To close 127/8 with the
			// last attachment is the safe side: the guard goes with it.
			if err := tx.SetOpened(a.LoopbackInterface, true); err != nil {
				return err
			}
		}
		return mark(tx, pending, strangers(records, found, p), p.remove)
	})
	for _, a := range p.add {
		s.Log.Warn("attachment was read back from the kernel", "owner", a.Owner(), "backend", a.Backend)
	}
	for _, a := range p.remove {
		s.Log.Info("record of an owner that is gone was dropped", "owner", a.Owner())
	}
	return p.remove, err
}

// withdrawn reports whether the change that was interrupted removed an
// attachment: its rules may still be there, and are not a reason to record it
// again.
func withdrawn(k hostport.Key, records []*hostport.Attachment, pending *state.Pending) bool {
	is := func(a *hostport.Attachment) bool { return a.Key == k }
	return pending != nil && slices.ContainsFunc(pending.Changed, is) && !slices.ContainsFunc(records, is)
}

// strangers returns the backends whose rules in the kernel name somebody whom
// their records do not name after p, or whose records p changes.
func strangers(records, found []*hostport.Attachment, p plan) []string {
	type side struct {
		hostport.Key
		backend string
	}
	recorded := make(map[side]bool)
	for _, a := range records {
		recorded[side{a.Key, a.Backend}] = true
	}
	for _, a := range p.remove {
		delete(recorded, side{a.Key, a.Backend})
	}
	for _, a := range p.add {
		recorded[side{a.Key, a.Backend}] = true
	}
	names := p.backends()
	for _, a := range found {
		if !recorded[side{a.Key, a.Backend}] && !slices.Contains(names, a.Backend) {
			names = append(names, a.Backend)
		}
	}
	return names
}

// rewrite makes the kernel hold what is recorded for one backend.
func (s *session) rewrite(ctx context.Context, name string) error {
	b, err := s.Backend(name)
	if err != nil {
		return err
	}
	all, err := s.records()
	if err != nil {
		return err
	}
	all = of(name, all)
	fp, err := s.fingerprint(name)
	if err != nil {
		return err
	}
	seen, err := b.Rewrite(ctx, all, fp)
	if errors.Is(err, backend.ErrMissing) && len(all) == 0 {
		return nil // nothing is recorded there, and nothing can be written
	}
	if err != nil {
		return onOldKernel(err)
	}
	return s.Update(func(tx *state.Tx) error {
		return errors.Join(tx.SetSeen(name, seen), tx.SetRewritten(time.Now()))
	})
}

// onOldKernel adds to an error that the kernel is older than those on which the
// tests pass, where it is.
func onOldKernel(err error) error {
	if old := backend.OldKernel(); old != "" && !errors.Is(err, backend.ErrDrift) && !errors.Is(err, backend.ErrBusy) {
		return fmt.Errorf("%w (%s)", err, old)
	}
	return err
}
