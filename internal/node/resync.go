package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/fault"
	"github.com/hostport-cni/hostport/internal/loopback"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// resync brings records and kernel into agreement. Every failure ends here.
func (s *session) resync(ctx context.Context) error {
	found, unread := s.owners(ctx)
	if len(unread) > 0 {
		s.Log.Warn("owners could not be read from all rules", "reason", unread.join())
	}
	if err := s.adopt(found); err != nil {
		return err
	}
	fault.Point(fault.AfterAdopt)
	if len(s.pending.Backends) == 0 {
		return nil
	}
	all, err := s.snapshot(nil)
	if err = errors.Join(err, each(s.closing, loopback.Close)); err != nil {
		return err
	}
	seen := make(map[string]string) // what Rewrite returned, by each backend that is in sync
	// late are owners that a process with another state directory has added meanwhile, so
	// that their rules were replaced. guarded are those that 127.0.0.1 may reach, and
	// unguarded those that it must not reach, as the kernel has no table raw.
	var late, guarded, unguarded []*hostport.Attachment
	failed := s.eachBackend("rewrite the rules", func(name string, b backend.Backend) error {
		if !slices.Contains(s.pending.Backends, name) {
			return nil
		}
		mine, except := of(name, all.Attachments), unread.families(name)
		if len(except) == len(hostport.Families()) {
			return unread[name]
		}
		returned, was, err := b.Rewrite(ctx, mine, all.fingerprints[name], except...)
		late = append(late, slices.DeleteFunc(was, func(a *hostport.Attachment) bool {
			return knows(found, a) || knows(all.Attachments, a)
		})...)
		switch {
		case errors.Is(err, backend.ErrNoGuard):
			s.Log.Warn("127.0.0.1 will not reach pods: 127.0.0.0/8 cannot be guarded", "backend", name, "reason", err)
			unguarded = slices.DeleteFunc(mine, func(a *hostport.Attachment) bool { return a.LoopbackInterface == "" })
		case errors.Is(err, backend.ErrMissing) && len(mine) == 0:
			err = nil // nothing is recorded for it, and nothing can be written
		}
		if err != nil {
			return err
		}
		seen[name] = returned
		if !slices.Contains(except, hostport.IPv4) {
			guarded = append(guarded, mine...)
		}
		return nil
	})
	if len(late)+len(unguarded) > 0 {
		if err := s.keepOffLoopback(unguarded); err != nil {
			return err
		}
		if err := s.adopt(late); err != nil {
			return err
		}
		return s.resync(ctx)
	}
	fault.Point(fault.AfterRewrite)
	if err := openInterfaces(guarded); err != nil {
		s.Log.Warn("127.0.0.1 may not reach pods", "reason", err)
	}
	s.flush(ctx, unheld(s.pending.Changed, all.Attachments))
	err = s.Update(func(tx *state.Tx) (err error) {
		if len(seen) > 0 {
			err = tx.SetText(state.KeyRewritten, time.Now().UTC().Format(time.RFC3339))
		}
		return errors.Join(err, s.finish(tx, seen, slices.Collect(maps.Keys(unread))))
	})
	errs := []error{failed.join(), err}
	for name := range seen {
		errs = append(errs, unread[name])
	}
	return errors.Join(errs...)
}

// knows reports whether an attachment is among all with each of its forwards. If it was
// added while the owners were read, some of its rules may be missing there. It may be
// there twice, with rules of each backend.
func knows(all []*hostport.Attachment, a *hostport.Attachment) bool {
	return slices.ContainsFunc(all, func(known *hostport.Attachment) bool {
		return known.Key == a.Key && len(forwards(known)) >= len(forwards(a))
	})
}

// unheld returns the attachments of an interrupted change whose ports no other one holds
// now. The ADD of that one has removed the stale flows, and those of today are its own.
func unheld(changed, all []*hostport.Attachment) []*hostport.Attachment {
	others := slices.DeleteFunc(slices.Clone(all), func(a *hostport.Attachment) bool { return find(changed, a.Key) != nil })
	return slices.DeleteFunc(slices.Clone(changed), func(a *hostport.Attachment) bool { return inTheWay(a, others) != nil })
}

// keepOffLoopback records that 127.0.0.1 must not reach these attachments.
func (s *session) keepOffLoopback(records []*hostport.Attachment) error {
	p := plan{remove: records}
	for _, a := range records {
		without := *a
		without.LoopbackInterface = ""
		p.add = append(p.add, &without)
	}
	return s.Update(p.write)
}

// owners returns the owners that the rules in the kernel name, as far as they can
// be read, and the errors of the backends that could not be read in full.
func (n *Node) owners(ctx context.Context) (found []*hostport.Attachment, unread failures) {
	unread = n.eachBackend("read the owners in the rules", func(_ string, b backend.Backend) error {
		owners, err := b.Owners(ctx)
		found = append(found, owners...)
		return err
	})
	return found, unread
}

// adopt executes planAdopt on the records, and marks the backends whose rules change.
func (s *session) adopt(found []*hostport.Attachment) error {
	var p plan
	err := s.Update(func(tx *state.Tx) error {
		records, _, err := tx.Records()
		if err != nil {
			return err
		}
		var refused []*ConflictError
		p, refused = planAdopt(records, found, s.pending.Changed, s.origin, s.dead)
		for _, r := range refused {
			s.Log.Warn("rules of an unknown attachment are removed: its port is held", "reason", r)
		}
		for _, a := range p.add {
			// Rules do not contain these.
			if path, _, _ := sandbox.Look(a.Sandbox); path != "" {
				a.Sandbox.Path = path
			}
			a.LoopbackInterface = s.loopbackInterface(a)
		}
		if err := p.write(tx); err != nil {
			return err
		}
		return s.mark(tx, slices.Concat(p.backends(), p.strange), p.remove)
	})
	for _, a := range p.add {
		s.Log.Warn("attachment was read back from the kernel", "owner", a.Owner(), "backend", a.Backend)
	}
	for _, a := range p.remove {
		s.Log.Info("record of an owner that is gone was dropped", "owner", a.Owner())
	}
	return err
}

// NoStateError says that there is no state in Dir.
type NoStateError struct {
	Dir string
	// Owners are the attachments that the rules in the kernel name nevertheless.
	Owners []*hostport.Attachment
	// Unread is why not all rules could be read, nil if they could.
	Unread error
}

func (e *NoStateError) Unwrap() error { return e.Unread }

func (e *NoStateError) Error() string {
	s := fmt.Sprintf("no state in %s", e.Dir)
	if n := len(e.Owners); n > 0 {
		s += fmt.Sprintf(", but rules of %d attachments in the kernel: they are left as they are, and the plugin records their owners again at its next ADD or CHECK", n)
	}
	if e.Unread != nil {
		s += fmt.Sprintf("; not all rules could be read: %v", e.Unread)
	}
	return s
}

// hasState returns nil if there is a state, else a *NoStateError.
func (n *Node) hasState(ctx context.Context) error {
	if state.Exists(n.Dir) {
		return nil
	}
	owners, unread := n.owners(ctx)
	return &NoStateError{n.Dir, owners, unread.join()}
}

// Sync rewrites the rules of the named backends from the records, of all if none is
// named, whatever the kernel holds: after a firewall reload, for instance. Living
// owners that the rules name and that have no record are recorded first. Without
// state it changes nothing and returns a *NoStateError.
func (n *Node) Sync(ctx context.Context, names ...string) error {
	if err := n.hasState(ctx); err != nil {
		return err
	}
	if len(names) == 0 {
		names = backend.Names()
	}
	return n.with(ctx, func(s *session) error {
		if err := s.Update(func(tx *state.Tx) error { return s.mark(tx, names, nil) }); err != nil {
			return err
		}
		return s.resync(ctx)
	})
}
