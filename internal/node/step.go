package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/internal/conntrack"
	"github.com/hostport-cni/hostport/internal/fault"
	"github.com/hostport-cni/hostport/internal/loopback"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// localnet qualifies the shares that count the users of an interface's
// route_localnet setting; the backends' own shares carry their names.
const localnet = "localnet"

// step is one change of the node: records that go and records that come.
type step struct{ remove, add []*state.Record }

func (st step) empty() bool { return len(st.remove) == 0 && len(st.add) == 0 }

// carryOut takes a step through its stages. What is intended is on disk
// before the kernel is touched, and marked as done after; a process that finds
// an intent settles it. If the kernel refuses, the records are put back.
func (s *session) carryOut(ctx context.Context, st step) error {
	if st.empty() {
		return nil
	}
	fault.Point(fault.BeforeRecord)
	if err := s.Update(func(tx *state.Tx) error { return begin(tx, st) }); err != nil {
		return fmt.Errorf("record change: %w", err)
	}
	fault.Point(fault.AfterRecord)
	if err := s.program(ctx, st); err != nil {
		return errors.Join(err, s.Update(func(tx *state.Tx) error {
			return errors.Join(s.note(tx), withdraw(tx, st), doubt(tx, backendsOf(st)...))
		}))
	}
	s.flush(ctx, st.remove, st.add)
	fault.Point(fault.AfterFlows)
	if err := s.Update(func(tx *state.Tx) error { return errors.Join(s.note(tx), end(tx, st.remove)) }); err != nil {
		return fmt.Errorf("record end of change: %w", err)
	}
	fault.Point(fault.AfterDone)
	return nil
}

// begin writes the records as they are to be, and the intent.
func begin(tx *state.Tx, st step) error {
	intent := &state.Intent{}
	for _, r := range st.remove {
		if err := tx.Delete(r); err != nil {
			return err
		}
		intent.Removed = append(intent.Removed, *r)
	}
	for _, r := range st.add {
		if err := tx.Put(r); err != nil {
			return err
		}
		intent.Added = append(intent.Added, r.Key)
		if err := claimLocalnet(tx, r.LocalnetVia); err != nil {
			return err
		}
	}
	return tx.Begin(intent)
}

// claimLocalnet notes that it is we who will have set route_localnet, if it
// is not set yet: only then may we unset it when nobody needs it any more.
func claimLocalnet(tx *state.Tx, ifname string) error {
	if ifname == "" || tx.Localnet(ifname) || loopback.Check(ifname) == nil {
		return nil
	}
	return tx.SetLocalnet(ifname, true)
}

// doubt notes that the rules of these backends have to be looked at: a tool
// that reports a failure, or is killed, may have done its work before.
func doubt(tx *state.Tx, names ...string) error {
	was, err := tx.Doubtful()
	if err != nil {
		return err
	}
	all := slices.Concat(was, names)
	slices.Sort(all)
	return tx.Doubt(slices.Compact(all))
}

// withdraw puts the records back as they were before begin.
func withdraw(tx *state.Tx, st step) error {
	for _, r := range st.add {
		if err := tx.Delete(r); err != nil {
			return err
		}
	}
	for _, r := range st.remove {
		if err := tx.Put(r); err != nil {
			return err
		}
	}
	return end(tx, st.add)
}

// end removes the intent, and the notes about interfaces that nobody uses now.
func end(tx *state.Tx, gone []*state.Record) error {
	for _, r := range gone {
		if r.LocalnetVia == "" {
			continue
		}
		used, err := localnetUsed(tx, r.LocalnetVia)
		if err != nil {
			return err
		}
		if used || loopback.Check(r.LocalnetVia) == nil {
			continue
		}
		if err := tx.SetLocalnet(r.LocalnetVia, false); err != nil {
			return err
		}
	}
	return tx.End()
}

func localnetUsed(tx *state.Tx, ifname string) (bool, error) {
	return tx.Uses(state.Share{Of: localnet, Name: ifname}, nil)
}

// program changes the kernel. 127/8 is closed before the rules that guard it
// go, and opened after they came.
func (s *session) program(ctx context.Context, st step) error {
	if err := s.closeLocalnet(st.remove); err != nil {
		return err
	}
	undo, err := s.apply(ctx, st)
	fault.Point(fault.AfterKernel)
	if err == nil {
		if err = openLocalnet(st.add); err == nil {
			fault.Point(fault.AfterSysctl)
			return nil
		}
	}
	return errors.Join(err, undo(), openLocalnet(st.remove))
}

// apply hands each backend its part of the step, those that only lose rules
// first. undo takes back what was applied.
func (s *session) apply(ctx context.Context, st step) (undo func() error, err error) {
	var done []func() error
	undo = func() error {
		var errs []error
		for _, fn := range slices.Backward(done) {
			errs = append(errs, fn())
		}
		return errors.Join(errs...)
	}
	for _, name := range backendsOf(st) {
		b, err := s.backend(name)
		if err != nil {
			return undo, err
		}
		c := s.change(name, st)
		if err := b.Apply(ctx, c); err != nil {
			return undo, err
		}
		done = append(done, func() error { return b.Apply(ctx, c.Inverse()) })
	}
	return undo, nil
}

func backendsOf(st step) []string {
	var names []string
	for _, r := range st.add {
		if !slices.Contains(names, r.Backend) {
			names = append(names, r.Backend)
		}
	}
	for _, r := range st.remove {
		if !slices.Contains(names, r.Backend) {
			names = append([]string{r.Backend}, names...)
		}
	}
	return names
}

// change is the part of a step that concerns one backend.
func (s *session) change(backend string, st step) hostport.Change {
	c := hostport.Change{Remove: of(backend, st.remove), Add: of(backend, st.add)}
	r := &rest{Store: s.Store, backend: backend}
	for _, a := range slices.Concat(c.Add, c.Remove) {
		r.except = append(r.except, a.Key)
	}
	c.Rest = r
	return c
}

func of(backend string, records []*state.Record) []*hostport.Attachment {
	var out []*hostport.Attachment
	for _, r := range records {
		if r.Backend == backend {
			out = append(out, &r.Attachment)
		}
	}
	return out
}

// closeLocalnet unsets route_localnet where we set it and nobody needs it now.
func (s *session) closeLocalnet(records []*state.Record) error {
	return s.View(func(tx *state.Tx) error {
		for _, r := range records {
			if r.LocalnetVia == "" || !tx.Localnet(r.LocalnetVia) {
				continue
			}
			used, err := localnetUsed(tx, r.LocalnetVia)
			if err != nil {
				return err
			}
			if used {
				continue
			}
			if err := loopback.Close(r.LocalnetVia); err != nil {
				return err
			}
		}
		return nil
	})
}

func openLocalnet(records []*state.Record) error {
	for _, r := range records {
		if r.LocalnetVia == "" {
			continue
		}
		if _, err := loopback.Open(r.LocalnetVia); err != nil {
			return err
		}
	}
	return nil
}

// flush removes UDP flows that would go on to where their port led before. It
// comes too late to fail the change, which the kernel has taken.
func (s *session) flush(ctx context.Context, lists ...[]*state.Record) {
	var targets []conntrack.Target
	seen := map[conntrack.Target]bool{}
	for _, r := range slices.Concat(lists...) {
		for _, f := range hostport.Families() {
			for _, fw := range r.Forwards(f) {
				t := conntrack.Target{Port: fw.HostPort, HostIP: fw.HostIP, Family: f}
				if fw.Protocol == hostport.UDP && !seen[t] {
					seen[t] = true
					targets = append(targets, t)
				}
			}
		}
	}
	if len(targets) == 0 {
		return
	}
	if _, err := conntrack.Flush(ctx, targets); err != nil {
		s.Log.Warn("stale UDP flows may remain", "reason", err)
	}
}
