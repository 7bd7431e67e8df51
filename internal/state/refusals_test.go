package state_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// The last refusals are kept, in order, also after somebody has spoilt the file.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := state.Refusals(dir); len(got) > 0 || err != nil {
		t.Errorf("at first: %v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "refusals"), []byte("noise"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := state.Refusals(dir); err == nil {
		t.Errorf("noise: %v, want an error", got)
	}
	for i := range 40 {
		name := fmt.Sprint("web-", i)
		r := state.Refusal{At: time.Unix(int64(i), 0), Pod: hostport.Pod{Namespace: "shop", Name: name}, Text: "port 80 is held"}
		if err := state.AddRefusal(dir, r); err != nil {
			t.Fatal(err)
		}
		if got, err := state.Refusals(dir); err != nil || len(got) == 0 || got[len(got)-1].Pod.Name != name {
			t.Errorf("after %s: %v, %v", name, got, err)
		}
	}
	got, err := state.Refusals(dir)
	if err != nil || len(got) != 16 || got[0].Pod.Name != "web-24" {
		t.Errorf("%v, %v", got, err)
	}
	if err := state.AddRefusal(filepath.Join(dir, "none"), state.Refusal{}); err != nil {
		t.Error(err)
	}
}
