package agent

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	var b backoff
	now := time.Unix(1000, 0)
	// Another program undoes it at once, each time.
	var waits []time.Duration
	for range 9 {
		w := b.wait(now)
		waits = append(waits, w)
		now = now.Add(w)
		b.done(now)
	}
	want := []time.Duration{0, 0, 0, 2, 4, 8, 16, 30, 30}
	for i, w := range want {
		if waits[i] != w*time.Second {
			t.Errorf("waits %v, want %v seconds", waits, want)
			break
		}
	}
	if !b.active() {
		t.Error("not active")
	}
	// A part of the wait has passed when it is noticed.
	if got := b.wait(now.Add(10 * time.Second)); got != 20*time.Second {
		t.Errorf("waits %v, want 20s", got)
	}
	// After a quiet time, counting starts again.
	if got := b.wait(now.Add(quietTime + time.Second)); got != 0 || b.active() {
		t.Errorf("waits %v after a quiet time", got)
	}
}

// TestBackoffSeldom wants no delay for something that happens only now and
// then.
func TestBackoffSeldom(t *testing.T) {
	var b backoff
	for now := time.Unix(1000, 0); now.Before(time.Unix(10000, 0)); now = now.Add(2 * time.Minute) {
		if w := b.wait(now); w != 0 {
			t.Fatalf("waits %v", w)
		}
		b.done(now)
	}
	if b.active() {
		t.Error("active")
	}
}
