package state_test

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

var both = []string{"iptables", "nftables"}

func TestAnotherBootVoidsRecords(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	fill(t, s, 3)
	update(t, s, func(tx *state.Tx) error {
		return errors.Join(tx.SetOpened("cni0", true), tx.SetText(state.KeySeen+"iptables", "7"),
			tx.SetPending(&state.Pending{Changed: []*hostport.Attachment{rec(1)}}))
	})
	_ = s.Close()
	o.BootID = "boot-2"
	s = open(t, o)
	pending(t, s, both...)
	if got := keys(t, s); len(got) > 0 || s.Aside != "" {
		t.Errorf("records of an earlier boot: %v, aside %q", got, s.Aside)
	}
	read(t, s, func(tx *state.Tx) error {
		if p, err := tx.Pending(); len(p.Changed) > 0 || err != nil || tx.Opened("cni0") || tx.Text(state.KeySeen+"iptables") != "" {
			t.Errorf("of an earlier boot: pending %v, %v, opened %t, seen %q", p, err, tx.Opened("cni0"), tx.Text(state.KeySeen+"iptables"))
		}
		holders, err := tx.Neighbours(&hostport.Attachment{Mappings: rec(0, 8000).Mappings})
		fp, ferr := tx.Fingerprint("iptables")
		if len(holders) > 0 || fp != (hostport.Fingerprint{}) {
			t.Errorf("of an earlier boot: holders %v, fingerprint %v", names(holders), fp)
		}
		return errors.Join(err, ferr)
	})
	update(t, s, func(tx *state.Tx) error {
		return errors.Join(tx.SetOpened("cni0", true), tx.SetPending(&state.Pending{}))
	})
	read(t, s, func(tx *state.Tx) error {
		if got := tx.Needless(); len(got) != 1 {
			t.Error("cni0 is used as in an earlier boot")
		}
		return nil
	})
	_ = s.Close()
	pending(t, open(t, o)) // the second time it is a state like any other
}

// Another version of the rules keeps the records, in both directions.
func TestAnotherLayoutKeepsRecords(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	fill(t, s, 3)
	update(t, s, func(tx *state.Tx) error {
		return errors.Join(tx.SetOpened("cni0", true), tx.SetText(state.KeySeen+"iptables", "7"), tx.SetText(state.KeyView, "1 2"))
	})
	for _, layout := range []int{3, 2, 1} {
		update(t, s, func(tx *state.Tx) error {
			return tx.SetPending(&state.Pending{Changed: []*hostport.Attachment{rec(8, 80)}})
		})
		_ = s.Close()
		o.Layout = layout
		s = open(t, o)
		read(t, s, func(tx *state.Tx) error {
			p, perr := tx.Pending()
			if diff := cmp.Diff(state.Pending{Backends: both, Changed: []*hostport.Attachment{rec(8, 80)}}, p, compare); diff != "" {
				t.Errorf("layout %d: pending (-want +got):\n%s", layout, diff)
			}
			view := tx.Text(state.KeyView)
			if !tx.Opened("cni0") || view != "1 2" || tx.Text(state.KeySeen+"iptables") != "" {
				t.Errorf("layout %d: opened %t, view %q, seen %q", layout, tx.Opened("cni0"), view, tx.Text(state.KeySeen+"iptables"))
			}
			got, err := tx.Fingerprint("iptables")
			want := hostport.Fingerprint{}.Toggle(layout, recordedIn(tx.ID(), rec(0, 8000, 20000), rec(1, 8001, 20001), rec(2, 8002, 20002))...)
			if got != want {
				t.Errorf("layout %d: fingerprint %v, want %v", layout, got, want)
			}
			return errors.Join(perr, err)
		})
		if err := use(s, 3); err != nil {
			t.Errorf("layout %d: %v", layout, err)
		}
	}
}

// A file of a later schema has more in it than this program knows, and one whose
// schema is not known has its records all the same.
func TestOtherSchemaKeepsRecords(t *testing.T) {
	for _, schema := range []string{"5", "3", "0", ""} {
		o := options(t.TempDir())
		s := open(t, o)
		fill(t, s, 3)
		_ = s.Close()
		edit(t, o, func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket([]byte("later"))
			return errors.Join(err, tx.DeleteBucket([]byte("interfaces")), tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte(schema)))
		})
		s = open(t, o)
		pending(t, s, both...)
		if err := use(s, 3); err != nil || s.Aside != "" {
			t.Errorf("schema %q: %v, aside %q", schema, err, s.Aside)
		}
	}
}

// schema1.db.gz was written by the program that had schema 1: pods 0 to 4 on both
// backends, and a change in which the process died, which adds pod 9 and removes
// pod 3. All rules are written anew, so it does not matter which change that was.
func TestSchema1IsConverted(t *testing.T) {
	o := options(t.TempDir())
	f, err := os.Open(filepath.Join("testdata", "schema1.db.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	write(t, o, b)
	if err := os.WriteFile(filepath.Join(o.Dir, "lock"), []byte("65024 10002705 65536 1795544571.685075749\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	of := func(n int, ports ...uint16) *hostport.Attachment {
		a := rec(n, ports...)
		if n%2 == 1 {
			a.Backend = "nftables"
		}
		return a
	}
	want := []*hostport.Attachment{of(0, 8000, 20000), of(1, 8001, 20001), of(2, 8002, 20002), of(4, 8004, 20004), of(9, 8009)}
	for n := range 2 { // before and after the file was converted
		s := open(t, o)
		if s.Aside != "" {
			t.Fatalf("moved aside to %s", s.Aside)
		}
		read(t, s, func(tx *state.Tx) error {
			got, _, err := tx.Records()
			if diff := cmp.Diff(want, got, compare); diff != "" {
				t.Errorf("records (-want +got):\n%s", diff)
			}
			p, perr := tx.Pending()
			if diff := cmp.Diff(state.Pending{Backends: both}, p, compare); diff != "" {
				t.Errorf("pending (-want +got):\n%s", diff)
			}
			fp, ferr := tx.Fingerprint("nftables")
			if want := (hostport.Fingerprint{}).Toggle(o.Layout, recordedIn(tx.ID(), want[1], want[4])...); fp != want {
				t.Errorf("fingerprint of nftables: %v, want %v", fp, want)
			}
			if a, err := tx.Get(want[0].Key); err != nil || a.State == "" || a.State != tx.ID() {
				t.Errorf("%v says that it is recorded in %q, want %q", a, a.State, tx.ID())
			}
			if got := tx.Needless(); !tx.Opened("cni0") || len(got) > 0 {
				t.Errorf("cni0: opened %t, needless %v", tx.Opened("cni0"), got)
			}
			return errors.Join(err, perr, ferr)
		})
		if err := s.Close(); err != nil {
			t.Errorf("open %d: %v", n, err)
		}
	}
	o.BootID = "boot-2"
	if got := keys(t, open(t, o)); len(got) > 0 {
		t.Errorf("records of an earlier boot: %v", got)
	}
}
