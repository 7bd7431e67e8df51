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
	if got, version, err := state.Refusals(dir, ""); len(got) > 0 || err != nil || version != "" {
		t.Errorf("at first: %v, %q, %v", got, version, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "refusals"), []byte("noise"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		_, before, _ := state.Refusals(dir, "")
		r := state.Refusal{At: time.Unix(int64(i), 0), Pod: hostport.Pod{Namespace: "shop", Name: fmt.Sprint("web-", i)}, Text: "port 80 is held"}
		if err := state.AddRefusal(dir, r); err != nil {
			t.Fatal(err)
		}
		if got, now, err := state.Refusals(dir, before); len(got) == 0 || now == before || err != nil {
			t.Errorf("after %q: %v, %q, %v", before, got, now, err)
		}
	}
	got, version, err := state.Refusals(dir, "")
	if err != nil || len(got) != 16 || got[15].Pod.Name != "web-39" || got[0].Pod.Name != "web-24" {
		t.Errorf("%v, %v", got, err)
	}
	if got, same, err := state.Refusals(dir, version); got != nil || same != version || err != nil {
		t.Errorf("again: %v, %q, %v", got, same, err)
	}
	if err := state.AddRefusal(filepath.Join(dir, "none"), state.Refusal{}); err != nil {
		t.Error(err)
	}
}
