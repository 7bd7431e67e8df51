package state_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

var compare = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}),
	cmpopts.EquateEmpty(),
	cmpopts.IgnoreFields(hostport.Attachment{}, "State"), // it is set when a file is converted
}

func options(dir string) state.Options {
	return state.Options{Dir: dir, Timeout: 5 * time.Second, BootID: "boot-1", Layout: 2, Backends: []string{"iptables", "nftables"}}
}

// open opens a state that is closed when the test ends.
func open(t *testing.T, o state.Options) *state.Store {
	t.Helper()
	s, err := state.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func update(t *testing.T, s *state.Store, fn func(*state.Tx) error) {
	t.Helper()
	if err := s.Update(fn); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, s *state.Store, fn func(*state.Tx) error) {
	t.Helper()
	if err := s.Read(fn); err != nil {
		t.Fatal(err)
	}
}

// rec is a record of pod n, which maps these TCP ports.
func rec(n int, ports ...uint16) *hostport.Attachment {
	a := &hostport.Attachment{
		Key:               hostport.Key{ContainerID: fmt.Sprintf("c%03d", n), IfName: "eth0"},
		Network:           "podnet",
		Sandbox:           hostport.Sandbox{Path: fmt.Sprintf("/run/netns/%d", n), Device: 4, Inode: uint64(n) + 1},
		Pod:               hostport.Pod{Namespace: "default", Name: fmt.Sprintf("pod-%d", n), UID: "u"},
		Addresses:         []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n >> 8), byte(n)}), 16), netip.MustParsePrefix(fmt.Sprintf("fd00::%x/64", n+1))},
		Backend:           "iptables",
		Options:           hostport.Options{SNAT: true, MarkMasqBit: 13, ConditionsV4: []string{"-d", "192.0.2.0/24"}},
		LoopbackInterface: "cni0",
		Boot:              hostport.BootHash("boot-1"),
		AddedAt:           time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	for _, p := range ports {
		a.Mappings = append(a.Mappings, hostport.Mapping{HostPort: p, ContainerPort: 80, Protocol: hostport.TCP})
	}
	return a
}

// fill puts n records. Nothing is pending then.
func fill(t testing.TB, s *state.Store, n int) {
	t.Helper()
	err := s.Update(func(tx *state.Tx) error {
		for i := range n {
			if err := tx.Put(rec(i, uint16(8000+i), uint16(20000+i))); err != nil {
				return err
			}
		}
		return tx.SetPending(&state.Pending{})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// recordedIn returns copies of records as a file of that ID has them.
func recordedIn(id string, all ...*hostport.Attachment) []*hostport.Attachment {
	out := make([]*hostport.Attachment, len(all))
	for i, a := range all {
		b := *a
		b.State, out[i] = id, &b
	}
	return out
}

// pending fails unless exactly these backends must be rewritten.
func pending(t *testing.T, s *state.Store, backends ...string) {
	t.Helper()
	read(t, s, func(tx *state.Tx) error {
		p, err := tx.Pending()
		if diff := cmp.Diff(backends, p.Backends, compare); diff != "" {
			t.Errorf("pending backends (-want +got):\n%s", diff)
		}
		return err
	})
}

// keys lists what is recorded.
func keys(t *testing.T, s *state.Store) []string {
	t.Helper()
	var out []string
	read(t, s, func(tx *state.Tx) error {
		out = nil
		for a, err := range tx.All() {
			if err != nil {
				return err
			}
			out = append(out, a.Key.String())
		}
		return nil
	})
	return out
}

func TestRecordsSurvive(t *testing.T) {
	o := options(filepath.Join(t.TempDir(), "a", "b"))
	s := open(t, o)
	pending(t, s, "iptables", "nftables") // the state may have been deleted
	want := rec(1, 8080, 8443)
	update(t, s, func(tx *state.Tx) error { return tx.Put(want) })
	reopen := func() {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, o)
	}
	reopen()
	pending(t, s, "iptables", "nftables")
	update(t, s, func(tx *state.Tx) error { return tx.SetPending(&state.Pending{}) })
	reopen()
	pending(t, s)
	read(t, s, func(tx *state.Tx) error {
		got, err := tx.Get(want.Key)
		if diff := cmp.Diff(want, got, compare); diff != "" {
			t.Errorf("record (-want +got):\n%s", diff)
		}
		if none, _ := tx.Get(hostport.Key{ContainerID: "c001"}); none != nil {
			t.Errorf("record without an interface: %v", none)
		}
		return err
	})
}

// An update that fails leaves nothing behind.
func TestUpdateIsAllOrNothing(t *testing.T) {
	s := open(t, options(t.TempDir()))
	refused := errors.New("refused")
	err := s.Update(func(tx *state.Tx) error { return errors.Join(tx.Put(rec(1, 80)), refused) })
	if !errors.Is(err, refused) {
		t.Errorf("error %v", err)
	}
	if got := keys(t, s); len(got) > 0 {
		t.Errorf("recorded nevertheless: %v", got)
	}
	if err := s.Read(func(tx *state.Tx) error { return tx.Put(rec(1, 80)) }); err == nil {
		t.Error("Read writes")
	}
}

func TestRebuild(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	fill(t, s, 2)
	for range 2 {
		if err := s.Rebuild(); err != nil {
			t.Fatal(err)
		}
		pending(t, s, "iptables", "nftables")
		if got := keys(t, s); len(got) > 0 {
			t.Errorf("records %v", got)
		}
		if _, err := os.Stat(s.Aside); err != nil {
			t.Error(err)
		}
	}
	update(t, s, func(tx *state.Tx) error { return tx.Put(rec(7, 80)) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	pending(t, s, "iptables", "nftables")
	if diff := cmp.Diff([]string{"c007/eth0"}, keys(t, s)); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestExists(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "a", "state")
	if state.Exists(dir) {
		t.Error("there is a state before it was made")
	}
	if err := state.Usable(dir); err != nil {
		t.Error(err)
	}
	if made, err := os.ReadDir(parent); len(made) > 0 || err != nil {
		t.Errorf("asking whether the directory is usable made %v, %v", made, err)
	}
	open(t, options(dir))
	if !state.Exists(dir) {
		t.Error("there is no state")
	}
}
