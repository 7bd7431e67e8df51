package nftables

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/backend/conformance"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// TestReason has errors of the kernel's, and what is said of them where the kernel
// lacks nothing.
func TestReason(t *testing.T) {
	newWorld(t)
	b := new(Backend)
	for _, tt := range []struct {
		errno unix.Errno
		drift bool
		says  string
	}{
		{unix.EPERM, false, "CAP_NET_ADMIN"},
		{unix.ENOMEM, false, "cannot allocate memory"},
		{unix.ENOSPC, false, "no space left"},
		{unix.EOPNOTSUPP, false, "operation not supported"},
		{unix.ENOENT, true, "not those on record"},
		{unix.EEXIST, true, ""},
		{unix.EBUSY, true, ""},
		{unix.EINVAL, true, ""},
	} {
		for _, makes := range []bool{false, true} {
			err := b.reason(t.Context(), tt.errno, makes, backend.ErrDrift)
			if errors.Is(err, backend.ErrDrift) != tt.drift || !errors.Is(err, tt.errno) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, of a transaction that makes the table (%t): %v; want drift (%t) and %q", tt.errno, makes, err, tt.drift, tt.says)
			}
		}
		if err := b.reason(t.Context(), tt.errno, true, nil); !errors.Is(err, tt.errno) || errors.Is(err, backend.ErrDrift) {
			t.Errorf("%v, of a rewrite: %v, want the kernel's and no drift", tt.errno, err)
		}
	}
}

// TestMissingFeature has a feature that no kernel has, at each place of the list.
func TestMissingFeature(t *testing.T) {
	newWorld(t)
	b := new(Backend)
	all := features()
	rules := all[len(all)-1]
	for i := range all {
		lost := feature{"what nobody wrote", "99.1", "CONFIG_LOST", []object{
			chain{name: "lost", rules: []rule{newRule([]expr.Any{&expr.Meta{Key: 250, Register: 1}})}},
		}}
		rules.uses = slices.Concat(all[len(all)-1].uses, lost.uses) // as the last has all others
		err := b.lacks(t.Context(), slices.Concat(all[:i], []feature{lost}, all[i:len(all)-1], []feature{rules}))
		const want = "the kernel lacks what nobody wrote (Linux 99.1 or newer, CONFIG_LOST)"
		if !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), want) {
			t.Errorf("feature %d: %v, want %q", i, err, want)
		}
	}
}

// powerless runs f in the namespace on a thread without capabilities.
func (w *world) powerless(f func(*Backend) error) error {
	w.tb.Helper()
	return w.do(func() error {
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		header, none := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		return f(new(Backend))
	})
}

func TestWithoutPermission(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1))
	before := w.ruleset()
	c, all := n.change(nil, []*hostport.Attachment{pod(2)})
	for name, call := range map[string]func(*Backend) error{
		"Apply":   func(b *Backend) error { _, err := b.Apply(t.Context(), c); return err },
		"Rewrite": func(b *Backend) error { _, _, err := b.Rewrite(t.Context(), all, c.After); return err },
		"Check":   func(b *Backend) error { _, err := b.Check(t.Context(), all, c.After); return err },
		"Owners":  func(b *Backend) error { _, err := b.Owners(t.Context()); return err },
		"Status":  func(b *Backend) error { _, err := b.Status(t.Context()); return err },
	} {
		err := w.powerless(call)
		if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("%s = %v, want EPERM and the capability", name, err)
		}
	}
	if after := w.ruleset(); after != before {
		t.Errorf("the ruleset became\n%s", after)
	}
}

// TestSeenIsBelieved: where the generation is the one on record the transaction
// itself meets what is wrong.
func TestSeenIsBelieved(t *testing.T) {
	one, two := []*hostport.Attachment{pod(1)}, []*hostport.Attachment{pod(2)}
	for name, tt := range map[string]struct {
		damage      []string
		remove, add []*hostport.Attachment
		errno       unix.Errno
	}{
		"a map is gone":     {[]string{"flush chain inet hostport hostports", "delete map inet hostport v4"}, one, nil, unix.ENOENT},
		"the table is gone": {[]string{"delete table inet hostport"}, one, nil, unix.ENOENT},
		"the port is taken": {[]string{"add element inet hostport v4 { tcp . 8002 : 10.244.0.9 . 81 }"}, nil, two, unix.EEXIST},
		"a set for a map": {[]string{
			"flush chain inet hostport hostports", "delete map inet hostport v4", "add set inet hostport v4 { type inet_proto . inet_service ; }",
		}, nil, two, unix.EINVAL},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := &node{t: t, backend: new(Backend)}
			n.add(pod(1), pod(3))
			for _, line := range tt.damage {
				w.nft(line)
			}
			n.pretendSeen()
			c, _ := n.change(tt.remove, tt.add)
			_, err := n.backend.Apply(t.Context(), c)
			if !errors.Is(err, backend.ErrDrift) || !errors.Is(err, tt.errno) {
				t.Errorf("Apply = %v, want drift and %v", err, tt.errno)
			}
		})
	}
}

// pretendSeen has the node take the ruleset as it is for one that it has seen.
func (n *node) pretendSeen() {
	s := parseSeen(n.seen)
	s.generation = n.backend.generation()
	n.seen = s.String()
}

// TestOvertaken: somebody removed the table, and the generation tells.
func TestOvertaken(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1))
	w.nft("delete table inet hostport")
	c, _ := n.change(nil, []*hostport.Attachment{pod(2)})
	_, err := n.backend.Apply(t.Context(), c)
	if !errors.Is(err, backend.ErrDrift) || !strings.Contains(err.Error(), "table inet hostport is missing") {
		t.Errorf("Apply = %v, want drift that names the table", err)
	}
}

func TestEndedContext(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1))
	before := w.ruleset()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, _ := n.change(nil, []*hostport.Attachment{pod(2)})
	if _, err := n.backend.Apply(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply = %v", err)
	}
	if after := w.ruleset(); after != before {
		t.Errorf("the ruleset became\n%s", after)
	}
}

func TestNoTable(t *testing.T) {
	newWorld(t)
	if got, err := new(Backend).handles(t.Context()); err != nil || got != "" {
		t.Errorf("handles = %q, %v", got, err)
	}
}

// A state that cannot be read must not be mistaken for an empty one.
func TestOthersFail(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1), pod(2))
	before := w.ruleset()
	c, _ := n.change([]*hostport.Attachment{pod(1)}, nil)
	c.Others = broken{}
	if _, err := n.backend.Apply(t.Context(), c); !errors.Is(err, errBroken) {
		t.Errorf("Apply = %v, want %v", err, errBroken)
	}
	if after := w.ruleset(); after != before {
		t.Errorf("the ruleset became\n%s", after)
	}
}

// TestAddAsksTheKernel: an ADD reads the records of other pods only if the kernel misses
// a set of clients.
func TestAddAsksTheKernel(t *testing.T) {
	newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1))
	apply := func(a *hostport.Attachment) error {
		c, after := n.change(nil, []*hostport.Attachment{a})
		c.Others = broken{}
		seen, err := n.backend.Apply(t.Context(), c)
		if err == nil {
			n.seen, n.held = seen, after
		}
		return err
	}
	if err := apply(pod(2)); err != nil {
		t.Errorf("the sets are there: %v", err)
	}
	n.wantClean()
	if err := apply(pod(3, addressed("10.200.33.7/21"))); !errors.Is(err, errBroken) {
		t.Errorf("a set is missing: %v, want %v", err, errBroken)
	}
}

var errBroken = errors.New("disk on fire")

type broken struct{ conformance.Others }

func (broken) Any(func(*hostport.Attachment) bool) (bool, error) { return false, errBroken }

// expiring is a context that ends after it was looked at some times.
type expiring struct {
	context.Context
	looks *int
}

func (e expiring) Err() error {
	if *e.looks--; *e.looks < 0 {
		return context.DeadlineExceeded
	}
	return nil
}

// What could be read before an error is returned with it.
func TestOwnersAreKeptOnError(t *testing.T) {
	newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1), pod(2))
	partly := false
	for looks := range 100 {
		got, err := n.backend.Owners(expiring{t.Context(), &looks})
		if err == nil {
			break
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Owners = %v", err)
		}
		partly = partly || len(got) == 2
	}
	if !partly {
		t.Error("no owners come with an error")
	}
}
