//go:build bench

package bench

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/test/world"
)

// TestStart measures a node that comes up: 200 attachments added by as many
// processes at once, then deleted, against the peer. What counts is the last.
func TestStart(t *testing.T) {
	attachments := 200
	if *quick {
		attachments = 20
	}
	for _, backend := range world.Backends {
		t.Run(string(backend), func(t *testing.T) {
			w := world.New(t, world.Options{Backend: backend})
			w.NewNetwork(world.NetworkOptions{}).MustAdd(t, "first")
			pod := w.NewPod("sandbox") // one for all: what is measured does not enter it
			ours, peer := subjects(w)
			found, failed := map[observed][]float64{}, map[observed][]float64{}
			for range runs(3) {
				for _, s := range []subject{ours, peer} {
					var calls []call
					for i := range attachments {
						calls = append(calls, call{
							world: w, subject: s, container: fmt.Sprintf("start-%s-%d", s.name, i), netns: pod.Netns.Path,
							addresses: []string{fmt.Sprintf("10.244.0.%d/24", i+20)}, mappings: []map[string]any{tcp(20000 + i)},
						})
					}
					for _, verb := range []string{"ADD", "DEL"} {
						took, bad := atOnce(t, calls, verb)
						k := observed{s.name, verb}
						found[k], failed[k] = append(found[k], took), append(failed[k], bad)
					}
				}
			}
			for k, xs := range found {
				l := labels("backend", backend, "verb", k.verb, "attachments", attachments)
				record(t, "start", k.subject, l, "ms", xs)
				record(t, "start-failed", k.subject, l, "calls", failed[k])
			}
		})
	}
}

// atOnce starts all calls together and returns the time to the end of the
// last, in milliseconds, and how many failed. Ours may not.
func atOnce(t *testing.T, calls []call, verb string) (ms, failed float64) {
	t.Helper()
	start := time.Now()
	var wg sync.WaitGroup
	var bad atomic.Int64
	for _, c := range calls {
		wg.Go(func() {
			if _, err := c.try(verb); err != nil {
				if bad.Add(1); c.subject.name == "hostport" {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return milliseconds(time.Since(start)), float64(bad.Load())
}
