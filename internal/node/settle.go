package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/hostport-cni/hostport/internal/iptables"
	"github.com/hostport-cni/hostport/internal/loopback"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// settle makes state and kernel agree before anything else happens: it reads
// lost records back from the kernel, and ends a change in whose middle a
// process died.
func (s *session) settle(ctx context.Context, preferred string) error {
	var lost []string
	switch s.Origin() {
	case state.Created:
		// Somebody may have deleted the file. Asking the one backend in use
		// keeps a node on nftables free of processes.
		if preferred == "" {
			preferred = s.Choose(ctx, "")
		}
		lost = []string{preferred}
	case state.Replaced:
		s.Log.Warn("state file could not be read: moved aside, rebuilding from the kernel", "aside", s.Aside())
		lost = []string{Nftables, Iptables}
	}
	complete := len(lost) > 0
	for _, name := range lost {
		ok, err := s.recover(ctx, name)
		if err != nil {
			return err
		}
		complete = complete && ok
	}
	if complete {
		if err := s.Recovered(); err != nil {
			return err
		}
	}
	if err := s.finish(ctx); err != nil {
		return err
	}
	return s.dispel(ctx)
}

// dispel rewrites the rules of backends about which there is doubt since a
// change failed. Where the kernel still refuses, the doubt stays: a backend that
// cannot work must not keep pods from ending.
func (s *session) dispel(ctx context.Context) error {
	var names, left []string
	err := s.View(func(tx *state.Tx) (err error) {
		names, err = tx.Doubtful()
		return err
	})
	if err != nil || len(names) == 0 {
		return err
	}
	for _, name := range names {
		if err := s.sync(ctx, name); err != nil {
			if errors.Is(err, state.ErrDamaged) {
				return err
			}
			s.Log.Warn("rules may differ from what is recorded, since a change failed", "backend", name, "reason", err)
			left = append(left, name)
		}
	}
	return s.Update(func(tx *state.Tx) error { return tx.Doubt(left) })
}

// recover records what the rules of a backend say about their owners. Only
// what nobody else holds is recorded: the kernel may hold remains of a change
// that never ended. It reports false when the kernel could not be read, so
// that the next process tries again.
func (s *session) recover(ctx context.Context, name string) (complete bool, err error) {
	if name == Iptables && iptables.Available() != nil {
		return true, nil
	}
	b, err := s.backend(name)
	if err != nil {
		return false, err
	}
	found, err := b.Recover(ctx)
	if err != nil {
		// The kernel cannot be read: a node must not stop starting pods
		// because of what may have been there before.
		s.Log.Warn("owners could not be read back from the kernel", "backend", name, "reason", err)
		return false, nil
	}
	for _, a := range found {
		a.Backend = name
		a.LocalnetVia = s.localnetVia(a)
		r, err := s.record(a)
		if err != nil {
			return false, err
		}
		if err := s.Update(func(tx *state.Tx) error { return adopt(tx, r) }); err != nil {
			return false, fmt.Errorf("record %s, found in the kernel: %w", a.Owner(), err)
		}
	}
	if len(found) == 0 {
		return true, nil
	}
	s.Log.Warn("attachments were read back from the kernel", "backend", name, "count", len(found))
	all, err := (&rest{Store: s.Store, backend: name}).All()
	if err != nil {
		return false, err
	}
	if err := b.Sync(ctx, all); err != nil {
		return true, err
	}
	return true, s.Update(s.note)
}

// adopt puts a record unless its key or one of its ports is taken.
func adopt(tx *state.Tx, r *state.Record) error {
	own, err := tx.Get(r.Key)
	if err != nil || own != nil {
		return err
	}
	for _, m := range r.Mappings {
		holders, err := tx.Holders(m, r.Key)
		if err != nil || len(holders) > 0 {
			return err
		}
	}
	if r.LocalnetVia != "" {
		// Ours or not is not known any more. Closing 127/8 with the last
		// attachment is the safe side: the guard goes with it.
		if err := tx.SetLocalnet(r.LocalnetVia, true); err != nil {
			return err
		}
	}
	return tx.Put(r)
}

// finish ends a change that was begun: the records say what is to be, so the
// backends concerned are synchronised with them.
func (s *session) finish(ctx context.Context) error {
	var st step
	err := s.View(func(tx *state.Tx) error {
		st = step{}
		intent, err := tx.Intent()
		if err != nil || intent == nil {
			return err
		}
		for i := range intent.Removed {
			st.remove = append(st.remove, &intent.Removed[i])
		}
		for _, k := range intent.Added {
			r, err := tx.Get(k)
			if err != nil {
				return err
			}
			if r != nil {
				st.add = append(st.add, r)
			}
		}
		return nil
	})
	if err != nil || st.empty() {
		return err
	}
	s.Log.Warn("ending a change in which a process died", "removed", len(st.remove), "added", len(st.add))
	if err := s.closeLocalnet(st.remove); err != nil {
		return err
	}
	for _, name := range backendsOf(st) {
		if err := s.sync(ctx, name); err != nil {
			return fmt.Errorf("end a change in which a process died: %w", err)
		}
	}
	if err := openLocalnet(st.add); err != nil {
		// The pod's interface may be gone with the pod.
		s.Log.Warn("127.0.0.1 may not reach a pod", "reason", err)
	}
	s.flush(ctx, st.remove, st.add)
	return s.Update(func(tx *state.Tx) error { return end(tx, st.remove) })
}

// sync makes the kernel hold exactly what is recorded for one backend.
func (s *session) sync(ctx context.Context, name string) error {
	b, err := s.backend(name)
	if err != nil {
		return err
	}
	all, err := (&rest{Store: s.Store, backend: name}).All()
	if err != nil {
		return err
	}
	if err := b.Sync(ctx, all); err != nil {
		return err
	}
	return s.Update(s.note)
}

// Sync rewrites all rules from the records: after a firewall reload, say. A
// backend without records is synchronised too if usable, which removes what
// is left of it.
func (n *Node) Sync(ctx context.Context) error {
	return n.with(ctx, "", func(s *session) error {
		var errs []error
		for _, name := range []string{Iptables, Nftables} {
			all, err := (&rest{Store: s.Store, backend: name}).All()
			if err != nil {
				return err
			}
			if len(all) == 0 && name == Iptables && iptables.Available() != nil {
				continue
			}
			if err := s.sync(ctx, name); err != nil {
				errs = append(errs, err)
			}
			for _, a := range all {
				if a.LocalnetVia == "" {
					continue
				}
				if _, err := loopback.Open(a.LocalnetVia); err != nil {
					s.Log.Warn("127.0.0.1 may not reach a pod", "owner", a.Owner(), "reason", err)
				}
			}
		}
		return errors.Join(errs...)
	})
}

// List returns every attachment on the node, ordered by key.
func (n *Node) List(ctx context.Context) (all []*hostport.Attachment, err error) {
	if !state.Exists(n.Dir) {
		return nil, nil
	}
	err = n.with(ctx, "", func(s *session) error {
		all = nil
		return s.View(func(tx *state.Tx) error {
			return tx.All(func(r *state.Record) error {
				all = append(all, &r.Attachment)
				return nil
			})
		})
	})
	return all, err
}
