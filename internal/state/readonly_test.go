package state_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/state"
)

// files are the files of a directory: what they hold, and when that was last written.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	out["."] = entry.Mode().String() + entry.ModTime().String()
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		fi, serr := e.Info()
		if err := errors.Join(err, serr); err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = fi.Mode().String() + fi.ModTime().String() + string(b)
	}
	return out
}

// A program that only looks leaves every file as it is, also one that is another's, and
// reads what can be read without converting it.
func TestReadOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	look := options(dir)
	look.ReadOnly = true
	if _, err := state.Open(t.Context(), look); !errors.Is(err, os.ErrNotExist) || state.Exists(dir) {
		t.Errorf("no directory: %v, made %t", err, state.Exists(dir))
	}
	s := open(t, options(dir))
	fill(t, s, 3)
	if err := errors.Join(s.Close(), os.Chmod(dir, 0o755), os.Chmod(filepath.Join(dir, "state.db"), 0o644)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // clocks of file systems are coarse

	reads := func(what string, o state.Options, want int) *state.Store {
		t.Helper()
		before := files(t, dir)
		s := open(t, o)
		read(t, s, func(tx *state.Tx) error {
			all, _, err := tx.Records()
			if len(all) != want {
				t.Errorf("%s: %d records, want %d", what, len(all), want)
			}
			return err
		})
		if err := s.Update(func(*state.Tx) error { return nil }); err == nil {
			t.Errorf("%s: could be written", what)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if diff := cmp.Diff(before, files(t, dir)); diff != "" {
			t.Errorf("%s: files (-before +after):\n%s", what, diff)
		}
		return s
	}
	refuses := func(what string, o state.Options) error {
		t.Helper()
		before := files(t, dir)
		_, err := state.Open(t.Context(), o)
		if diff := cmp.Diff(before, files(t, dir)); err == nil || diff != "" {
			t.Errorf("%s: %v; files (-before +after):\n%s", what, err, diff)
		}
		return err
	}

	if other := reads("its own", look, 3).Other; other != nil {
		t.Errorf("its own: %v", other)
	}
	later := look
	later.Layout++
	if other := reads("another layout", later, 3).Other; other == nil || other.Void {
		t.Errorf("another layout: %v", other)
	}
	booted := look
	booted.BootID += "x"
	if other, ok := errors.AsType[*state.OtherError](refuses("another boot", booted)); !ok || !other.Void {
		t.Errorf("another boot: %v", other)
	}

	// It waits for who changes the node, and keeps it out meanwhile.
	s = open(t, options(dir))
	look.Timeout = 50 * time.Millisecond
	if err := refuses("held", look); !errors.Is(err, state.ErrLocked) {
		t.Errorf("held: %v", err)
	}
	_ = s.Close()
	s = open(t, look)
	held := options(dir)
	held.Timeout = 50 * time.Millisecond
	if _, err := state.Open(t.Context(), held); !errors.Is(err, state.ErrLocked) {
		t.Errorf("while it looks: %v", err)
	}
	_ = s.Close()

	if err := os.Remove(filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	reads("without a lock file", look, 3)
	if err := os.WriteFile(filepath.Join(dir, "state.db"), []byte("not a database"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := refuses("damaged", look); !errors.Is(err, state.ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
	if err := os.Truncate(filepath.Join(dir, "state.db"), 0); err != nil {
		t.Fatal(err)
	}
	if other, ok := errors.AsType[*state.OtherError](refuses("empty", look)); !ok || !other.Void {
		t.Errorf("empty: %v", other)
	}
}
