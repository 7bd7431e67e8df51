package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// session is the opened and locked state of the node: no other process changes it
// meanwhile.
type session struct {
	*Node
	*state.Store
	sight
	origin
	pending state.Pending // what is recorded as pending
	closing []string      // the interfaces that no record needs any more
}

// change runs fn on the state after a resync, if something is pending: an earlier
// call was killed in the middle of a change, or the state is new, of another boot or
// of another version of the plugin. A backend that cannot be resynced stays pending,
// and does not keep pods of the other one from starting and ending.
func (n *Node) change(ctx context.Context, fn func(*session) error) error {
	return n.open(ctx, true, fn)
}

// with runs fn on the state as recorded.
func (n *Node) with(ctx context.Context, fn func(*session) error) error {
	return n.open(ctx, false, fn)
}

// open runs fn on the state. If the state proves to be damaged while it is read, it is
// rebuilt and fn runs once more.
func (n *Node) open(ctx context.Context, resync bool, fn func(*session) error) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("identify this boot: %w", err)
	}
	bootID := strings.TrimSpace(string(boot))
	st, err := state.Open(ctx, state.Options{
		Dir: n.Dir, Timeout: n.Timeout, BootID: bootID, Layout: backend.Layout, Backends: backend.Names(),
		Guest: n.Guest, ReadOnly: n.ReadOnly,
	})
	if err != nil {
		return err
	}
	if st.Aside != "" {
		n.Log.Warn("state file could not be read: moved aside, rebuilding it from the kernel", "aside", st.Aside)
	}
	s := &session{Node: n, Store: st, origin: origin{boot: hostport.BootHash(bootID)}}
	run := func() error {
		if err := s.begin(); err != nil {
			return err
		}
		// In a rebuilt state the records are lost, and only the rules name the owners.
		if s.Aside != "" || resync && len(s.pending.Backends) > 0 {
			if err := s.resync(ctx); errors.Is(err, state.ErrDamaged) {
				return err
			} else if err != nil {
				s.Log.Warn("out of sync: rules could not be rewritten", "reason", err)
			}
		}
		return fn(s)
	}
	if err = run(); errors.Is(err, state.ErrDamaged) && !n.Guest && !n.ReadOnly {
		n.Log.Warn("state file is damaged and is rebuilt from the kernel", "reason", err)
		if err = s.Rebuild(); err == nil {
			err = run()
		}
	}
	return errors.Join(err, s.Close())
}

// begin reads what is pending, and determines whether the process sees the
// sandboxes that the runtime sees.
func (s *session) begin() error {
	own, err := sandbox.OwnView()
	if err != nil {
		return err
	}
	var recorded string
	err = s.Read(func(tx *state.Tx) error {
		recorded, s.state = tx.Text(state.KeyView), tx.ID()
		s.pending, err = tx.Pending()
		return err
	})
	if !s.Runtime {
		var v sandbox.View
		_, _ = fmt.Sscan(recorded, &v.PID, &v.Mount) // zeros if it is unknown
		s.sight = sight(own.Sees(v))
		return err
	}
	s.sight = true
	if view := fmt.Sprint(own.PID, own.Mount); err == nil && view != recorded {
		err = s.Update(func(tx *state.Tx) error { return tx.SetText(state.KeyView, view) })
	}
	return err
}

// mark adds to what is pending the backends whose rules may differ from the records, and
// the attachments whose flows may be stale. It must follow the change of the records in a
// transaction: it reads from them which interfaces to close.
func (s *session) mark(tx *state.Tx, names []string, changed []*hostport.Attachment) error {
	s.closing = tx.Needless()
	s.pending.Backends = append(s.pending.Backends, names...)
	s.pending.Changed = append(s.pending.Changed, changed...)
	return tx.SetPending(&s.pending)
}

// finish records the end of a change: what each backend in sync returned (seen), and the
// interfaces that were closed. Backends in unfinished stay pending. Of their attachments,
// those that were read back from the rules and then removed stay in Changed: they may have
// more rules, in a family that could not be read.
func (s *session) finish(tx *state.Tx, seen map[string]string, unfinished []string) error {
	errs := []error{each(s.closing, func(ifname string) error { return tx.SetOpened(ifname, false) })}
	for name, returned := range seen {
		errs = append(errs, tx.SetText(state.KeySeen+name, returned))
	}
	s.pending.Backends = slices.DeleteFunc(s.pending.Backends, func(name string) bool {
		_, done := seen[name]
		return done && !slices.Contains(unfinished, name)
	})
	s.pending.Changed = slices.DeleteFunc(s.pending.Changed, func(a *hostport.Attachment) bool {
		return !a.AddedAt.IsZero() || !slices.Contains(s.pending.Backends, a.Backend) || tx.Has(a.Key)
	})
	return errors.Join(append(errs, tx.SetPending(&s.pending))...)
}

// read calls fn in a transaction of its own, and returns its result.
func read[T any](s *state.Store, fn func(*state.Tx) (T, error)) (v T, err error) {
	err = s.Read(func(tx *state.Tx) error {
		v, err = fn(tx)
		return err
	})
	return v, err
}

// ErrUnseen is wrapped by errors that mean: the process may not see the node's
// sandboxes, and so declares none dead.
var ErrUnseen = errors.New("this process may not see the sandboxes of the node's pods: " +
	"run it on the node itself, or with `nsenter --target 1 --mount --pid -- COMMAND` in a container that shares the node's PID namespace")

// sight is true if a sandbox that the process does not find does not exist on the node.
type sight bool

// dead reports whether the sandbox of an attachment is gone. It fails if that
// cannot be determined, for instance if the process may not see the sandbox.
func (sees sight) dead(a *hostport.Attachment) (bool, error) {
	_, gone, err := sandbox.Look(a.Sandbox)
	if gone && !bool(sees) {
		return false, ErrUnseen
	}
	return gone, err
}
