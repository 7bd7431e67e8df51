//go:build soak

package faults

import (
	"os"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/test/world"
)

// TestSoak lets pods come and go for DURATION (30m) on BACKEND (nftables),
// while everything fails that can: `make soak`. SEED repeats a run's choices.
func TestSoak(t *testing.T) {
	duration, backend := 30*time.Minute, world.NFTables
	if v := os.Getenv("DURATION"); v != "" {
		var err error
		if duration, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	if v := os.Getenv("BACKEND"); v != "" {
		backend = world.Backend(v)
	}
	soak(t, backend, duration, seed(t, uint64(time.Now().UnixNano())))
}
