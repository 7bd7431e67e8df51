package faults

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/test/world"
)

// seed is SEED, or else the one given.
func seed(t *testing.T, s uint64) uint64 {
	t.Helper()
	if v := os.Getenv("SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		s = n
	}
	t.Logf("SEED=%d", s)
	return s
}

// soak runs the churn for a while and reports what came of it.
func soak(t *testing.T, b world.Backend, duration time.Duration, seed uint64) {
	m := newMachine(t, b)
	m.config["backend"] = b.Config()
	c := newChurn(m, seed)
	start := time.Now()
	steps, checks := 0, 0
	report := func() {
		t.Logf("%v on %s: %d steps, %d adds, %d deletes, %d refused, %d faults injected, %d invocations killed, %d checks, %d discrepancies",
			time.Since(start).Round(time.Second), b, steps, c.adds, c.dels, c.refused, c.faults, c.kills, checks, len(c.discrepancies))
	}
	for next := start.Add(time.Minute); time.Since(start) < duration; {
		for range 5 {
			c.step()
			steps++
		}
		c.verify()
		checks++
		if n := len(c.discrepancies); n > 0 {
			report()
			t.Fatalf("%s", c.discrepancies[n-1])
		}
		if time.Now().After(next) {
			report()
			next = time.Now().Add(time.Minute)
		}
	}
	c.gc()
	for slot := range slots {
		c.del(slot)
	}
	c.verify()
	report()
	if len(c.discrepancies) > 0 {
		t.Fatalf("%s", c.discrepancies[0])
	}
}

// A few seconds of what `make soak` does for half an hour.
func TestChurn(t *testing.T) {
	everyBackend(t, func(t *testing.T, b world.Backend) { soak(t, b, 15*time.Second, seed(t, 20260101)) })
}
