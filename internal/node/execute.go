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

// apply plans a change from the records and executes it. If the kernel has
// drifted from them, it plans again after a resync, which may have recorded
// owners that were unknown before.
func (s *session) apply(ctx context.Context, build func(*state.Tx) (plan, error)) error {
	for n := 1; ; n++ {
		p, err := read(s.Store, build)
		if err != nil || p.empty() {
			return err
		}
		err = s.execute(ctx, p)
		// Another program may change the rules between a resync and the change.
		if !errors.Is(err, backend.ErrDrift) || errors.Is(err, state.ErrDamaged) || n == 6 {
			return err
		}
		s.Log.Warn("the rules in the kernel are not those on record: they were rewritten", "reason", err)
	}
}

// execute carries out one planned change. After an error the records are restored and the
// kernel is resynced.
func (s *session) execute(ctx context.Context, p plan) error {
	fault.Point(fault.BeforeRecord)
	marked := slices.Clone(s.pending.Backends) // by a failed resync, which a change alone does not repair
	var changes map[string]*backend.Change
	err := s.Update(func(tx *state.Tx) (err error) {
		changes, err = s.record(tx, p)
		return err
	})
	if err != nil {
		return fmt.Errorf("record change: %w", err)
	}
	fault.Point(fault.AfterRecord)
	seen, err := s.program(ctx, p, changes)
	if err != nil {
		return s.rollBack(ctx, p, err)
	}
	s.flush(ctx, slices.Concat(p.remove, p.add))
	fault.Point(fault.AfterFlows)
	if err := s.Update(func(tx *state.Tx) error { return s.finish(tx, seen, marked) }); err != nil {
		return fmt.Errorf("record end of change: %w", err)
	}
	fault.Point(fault.AfterDone)
	return nil
}

// record writes the records of the plan, adds the change to what is pending, and
// returns the change of each backend.
func (s *session) record(tx *state.Tx, p plan) (changes map[string]*backend.Change, err error) {
	changes = make(map[string]*backend.Change)
	for _, name := range p.backends() {
		before, err := tx.Fingerprint(name)
		if err != nil {
			return nil, err
		}
		changes[name] = &backend.Change{
			Remove: of(name, p.remove), Add: of(name, p.add), Before: before, Seen: tx.Text(state.KeySeen + name),
			Others: &others{s.Store, name, p.add},
		}
	}
	if err := p.write(tx); err != nil {
		return nil, err
	}
	for name, c := range changes {
		if c.After, err = tx.Fingerprint(name); err != nil {
			return nil, err
		}
	}
	return changes, s.mark(tx, p.backends(), slices.Concat(p.remove, p.add))
}

func (p plan) write(tx *state.Tx) error {
	if err := each(p.remove, tx.Delete); err != nil {
		return err
	}
	return each(p.add, func(a *hostport.Attachment) error { return errors.Join(tx.Put(a), claimInterface(tx, a)) })
}

// each calls fn for each element until one call fails.
func each[T any](all []T, fn func(T) error) error {
	for _, x := range all {
		if err := fn(x); err != nil {
			return err
		}
	}
	return nil
}

// program changes the kernel, and returns Seen of each backend's next change. 127/8 is
// closed before the rules that guard it are removed, and opened after they are added.
func (s *session) program(ctx context.Context, p plan, changes map[string]*backend.Change) (seen map[string]string, err error) {
	if err := each(s.closing, loopback.Close); err != nil {
		return nil, err
	}
	seen = make(map[string]string)
	for _, name := range p.backends() {
		b, err := s.Backend(name)
		if err != nil {
			return nil, err
		}
		seen[name], err = b.Apply(ctx, *changes[name])
		if err != nil {
			if old := backend.OldKernel(); old != "" && !errors.Is(err, backend.ErrDrift) && !Busy(err) {
				err = fmt.Errorf("%w (%s)", err, old)
			}
			return nil, err
		}
	}
	fault.Point(fault.AfterKernel)
	err = openInterfaces(p.add)
	fault.Point(fault.AfterSysctl)
	return seen, err
}

// flush removes the UDP flows to ports of these attachments, which would keep
// going to the former destination. It logs errors only: the change cannot fail
// any more, because the kernel has accepted it.
func (s *session) flush(ctx context.Context, changed []*hostport.Attachment) {
	if err := conntrack.Flush(ctx, forwards(changed...)); err != nil {
		s.Log.Warn("stale UDP flows may remain", "reason", err)
	}
}

// rollBack restores the records of before a failed change, and resyncs the kernel.
func (s *session) rollBack(ctx context.Context, p plan, reason error) error {
	if err := s.Update(plan{remove: p.add, add: p.remove}.write); err != nil {
		return errors.Join(reason, fmt.Errorf("take back the record of a change that failed: %w", err))
	}
	// The change may have been cancelled, but what it left must be cleaned up. A
	// resync takes longer than the wait for locks.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Timeout+10*time.Second)
	defer cancel()
	return errors.Join(reason, s.resync(ctx))
}

func of(name string, all []*hostport.Attachment) []*hostport.Attachment {
	return slices.DeleteFunc(slices.Clone(all), func(a *hostport.Attachment) bool { return a.Backend != name })
}

// others answers a backend's questions from the records, which no longer contain
// the attachments that a change removes.
type others struct {
	*state.Store
	backend string
	added   []*hostport.Attachment
}

func (o *others) InUse(f hostport.Family, p hostport.Protocol, first, last uint16) (bool, error) {
	return read(o.Store, func(tx *state.Tx) (bool, error) { return tx.InUse(o.backend, f, p, first, last, o.added) })
}

func (o *others) Any(match func(*hostport.Attachment) bool) (bool, error) {
	return read(o.Store, func(tx *state.Tx) (bool, error) {
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

// loopbackInterface returns the interface on which 127.0.0.1 must be let through,
// or "" if no mapping is for 127/8 or no route leads to the pod.
func (n *Node) loopbackInterface(a *hostport.Attachment) string {
	local := func(f hostport.Forward) bool { return !f.HostIP.IsValid() || f.HostIP.IsLoopback() }
	if !a.Options.SNAT || !slices.ContainsFunc(a.Forwards(hostport.IPv4), local) {
		return ""
	}
	pod, _ := a.Address(hostport.IPv4)
	ifname, err := loopback.Interface(pod.Addr())
	if err != nil {
		n.Log.Warn("127.0.0.1 will not reach the pod", "pod", pod.Addr(), "reason", err)
	}
	return ifname
}

// claimInterface records that we set route_localnet for an attachment, unless it is set
// already: only what we set may be unset. Who set it for an attachment that was read back
// from the kernel is unknown. Closing 127/8 with the last attachment is then the safe
// choice, because the guard is removed with it.
func claimInterface(tx *state.Tx, a *hostport.Attachment) error {
	ifname := a.LoopbackInterface
	if ifname == "" || tx.Opened(ifname) || !a.AddedAt.IsZero() && loopback.Check(ifname) == nil {
		return nil
	}
	return tx.SetOpened(ifname, true)
}

// openInterfaces sets route_localnet for these attachments.
func openInterfaces(all []*hostport.Attachment) error {
	var errs []error
	for _, a := range all {
		if a.LoopbackInterface == "" {
			continue
		}
		if err := loopback.Open(a.LoopbackInterface); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.Owner(), err))
		}
	}
	return errors.Join(errs...)
}

// checkInterface returns an error if 127.0.0.1 must reach the attachment and does not.
func checkInterface(a *hostport.Attachment) error {
	if a.LoopbackInterface == "" {
		return nil
	}
	return loopback.Check(a.LoopbackInterface)
}
