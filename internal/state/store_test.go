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
}

func options(dir string) state.Options {
	return state.Options{Dir: dir, Timeout: 5 * time.Second, BootID: "boot-1"}
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

func view(t *testing.T, s *state.Store, fn func(*state.Tx) error) {
	t.Helper()
	if err := s.View(fn); err != nil {
		t.Fatal(err)
	}
}

// rec is a record of pod n, which maps these TCP ports.
func rec(n int, ports ...uint16) *state.Record {
	r := &state.Record{
		Attachment: hostport.Attachment{
			Key:       hostport.Key{ContainerID: fmt.Sprintf("c%03d", n), IfName: "eth0"},
			Network:   "podnet",
			Sandbox:   hostport.Sandbox{Path: fmt.Sprintf("/run/netns/%d", n), Device: 4, Inode: uint64(n) + 1},
			Pod:       hostport.Pod{Namespace: "default", Name: fmt.Sprintf("pod-%d", n), UID: "u"},
			Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n >> 8), byte(n)}), 16), netip.MustParsePrefix(fmt.Sprintf("fd00::%x/64", n+1))},
			Backend:   "iptables",
			Options:   hostport.Options{SNAT: true, MarkMasqBit: 13, ConditionsV4: []string{"-d", "192.0.2.0/24"}},
			Since:     time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		},
		Shares: []state.Share{{Of: "iptables", Name: "base"}, {Of: "iptables", Name: fmt.Sprintf("chain-%d", n%4)}},
	}
	for _, p := range ports {
		r.Mappings = append(r.Mappings, hostport.Mapping{HostPort: p, ContainerPort: 80, Protocol: hostport.TCP})
	}
	return r
}

// fill puts n records and settles the store.
func fill(t *testing.T, s *state.Store, n int) {
	t.Helper()
	update(t, s, func(tx *state.Tx) error {
		for i := range n {
			if err := tx.Put(rec(i, uint16(8000+i), uint16(20000+i))); err != nil {
				return err
			}
		}
		return nil
	})
	if err := s.Recovered(); err != nil {
		t.Fatal(err)
	}
}

// keys lists what is recorded.
func keys(t *testing.T, s *state.Store) []string {
	t.Helper()
	var out []string
	view(t, s, func(tx *state.Tx) error {
		out = nil
		return tx.All(func(r *state.Record) error {
			out = append(out, r.Key.String())
			return nil
		})
	})
	return out
}

func TestRecordsSurvive(t *testing.T) {
	o := options(filepath.Join(t.TempDir(), "a", "b"))
	s := open(t, o)
	if s.Origin() != state.Created {
		t.Errorf("origin %d, want Created", s.Origin())
	}
	want := rec(1, 8080, 8443)
	update(t, s, func(tx *state.Tx) error { return tx.Put(want) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	if s.Origin() != state.Created {
		t.Errorf("origin %d before the kernel was read, want Created", s.Origin())
	}
	if err := errors.Join(s.Recovered(), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	if s.Origin() != state.Kept {
		t.Errorf("origin %d, want Kept", s.Origin())
	}
	view(t, s, func(tx *state.Tx) error {
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

func TestAnotherBootVoidsRecords(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	fill(t, s, 3)
	update(t, s, func(tx *state.Tx) error {
		return errors.Join(tx.SetLocalnet("cni0", true), tx.Begin(&state.Intent{Added: []hostport.Key{rec(1).Key}}))
	})
	_ = s.Close()
	o.BootID = "boot-2"
	s = open(t, o)
	if s.Origin() != state.Rebooted || s.Aside() != "" {
		t.Errorf("origin %d, aside %q, want Rebooted", s.Origin(), s.Aside())
	}
	if got := keys(t, s); len(got) > 0 {
		t.Errorf("records of an earlier boot: %v", got)
	}
	view(t, s, func(tx *state.Tx) error {
		if i, err := tx.Intent(); i != nil || err != nil || tx.Localnet("cni0") {
			t.Errorf("intent %v, %v, localnet %t", i, err, tx.Localnet("cni0"))
		}
		holders, err := tx.Holders(rec(0, 8000).Mappings[0], hostport.Key{})
		if len(holders) > 0 {
			t.Errorf("holders of an earlier boot: %v", holders)
		}
		return err
	})
	_ = s.Close()
	if s = open(t, o); s.Origin() != state.Kept {
		t.Errorf("origin %d the second time, want Kept", s.Origin())
	}
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
	if err := s.View(func(tx *state.Tx) error { return tx.Put(rec(1, 80)) }); err == nil {
		t.Error("View writes")
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
		if s.Origin() != state.Replaced || len(keys(t, s)) > 0 {
			t.Errorf("origin %d, records %v", s.Origin(), keys(t, s))
		}
		if _, err := os.Stat(s.Aside()); err != nil {
			t.Error(err)
		}
	}
	update(t, s, func(tx *state.Tx) error { return tx.Put(rec(7, 80)) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	if s.Origin() != state.Replaced {
		t.Errorf("origin %d before the kernel was read, want Replaced", s.Origin())
	}
	if diff := cmp.Diff([]string{"c007/eth0"}, keys(t, s)); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// A process that dies between moving the damaged file aside and making the new
// one must not leave a state that looks as if there never had been any.
func TestFileMovedAsideWithoutSuccessor(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	fill(t, s, 1)
	_ = s.Close()
	path := filepath.Join(o.Dir, "state.db")
	if err := os.Rename(path, path+".damaged-20260102T030405"); err != nil {
		t.Fatal(err)
	}
	if s = open(t, o); s.Origin() != state.Replaced {
		t.Errorf("origin %d, want Replaced", s.Origin())
	}
}

func TestExists(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if state.Exists(dir) {
		t.Error("there is a state before it was made")
	}
	if err := state.Usable(dir); err != nil {
		t.Error(err)
	}
	if state.Exists(dir) {
		t.Error("asking whether the directory is usable made a state")
	}
	open(t, options(dir))
	if !state.Exists(dir) {
		t.Error("there is no state")
	}
}
