package state_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/state"
)

// A guest reads what the plugin of its own layout wrote, and leaves a file alone
// that the plugin would convert or replace.
func TestGuest(t *testing.T) {
	dir := t.TempDir()
	o := options(dir)
	if err := open(t, o).Close(); err != nil {
		t.Fatal(err)
	}
	guest := o
	guest.Guest = true
	if err := open(t, guest).Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "state.db")
	same := func(what string, o state.Options, damaged bool) {
		t.Helper()
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = state.Open(t.Context(), o)
		if _, other := errors.AsType[*state.OtherError](err); other == damaged || errors.Is(err, state.ErrDamaged) != damaged {
			t.Errorf("%s: %v, damaged: want %v", what, err, damaged)
		}
		if strings.Contains(err.Error(), "use the hostportctl") || strings.Contains(err.Error(), "to this one") {
			t.Errorf("%s: an agent, which is no hostportctl, logs %q", what, err)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
			t.Errorf("%s: the file was changed: %v", what, err)
		}
	}
	other := guest
	other.Layout++
	same("another layout", other, false)
	other = guest
	other.BootID += "x"
	same("another boot", other, false)
	if err := os.WriteFile(path, []byte("not a database"), 0o600); err != nil {
		t.Fatal(err)
	}
	same("a damaged file", guest, true)
	if err := open(t, o).Close(); err != nil {
		t.Errorf("the plugin: %v", err)
	}
	// A guest that lives on keeps no lock of bbolt's.
	s := open(t, o)
	fill(t, s, 100)
	if err := errors.Join(s.Close(), os.Truncate(path, 18000)); err != nil {
		t.Fatal(err)
	}
	same("a file that was cut off", guest, true)
	o.Timeout = time.Second
	if err := open(t, o).Close(); err != nil {
		t.Errorf("the plugin: %v", err)
	}
}
