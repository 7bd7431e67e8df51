package state_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/state"
)

func TestCounts(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if err := state.AddCount(dir, "DEL/failed", time.Millisecond); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := state.AddCount(dir, "takeover", 0); err != nil {
		t.Error(err)
	}
	got, err := state.Counts(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range got {
		want := state.Count{}
		switch name {
		case "DEL/failed":
			want = state.Count{800, 800 * time.Millisecond}
		case "takeover":
			want = state.Count{1, 0}
		}
		if c != want {
			t.Errorf("%s = %+v, want %+v", name, c, want)
		}
	}
	if err := state.AddCount(dir, "nothing", 0); err == nil {
		t.Error("an unknown name was counted")
	}
}

// What is not there is not made: a node without host ports has no state.
func TestCountsWithoutDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	if err := state.AddCount(dir, "ADD/success", 0); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory was made: %v", err)
	}
	if got, err := state.Counts(dir); err != nil || len(got) == 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, options(dir))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := state.AddCount(dir, "ADD/success", 0); err != nil {
		t.Fatal(err)
	}
	if err := state.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
	if err := state.Remove(dir); err != nil {
		t.Errorf("again: %v", err)
	}
}
