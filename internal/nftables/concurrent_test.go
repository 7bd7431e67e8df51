package nftables

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/backend/conformance"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// While others commit without pause, and flush everything now and then, every
// change succeeds and the last one leaves exactly what is held.
func TestForeignCommits(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(100))

	stop := make(chan struct{})
	var (
		others  sync.WaitGroup
		commits atomic.Int64
	)
	loop := func(commit func(i int) error) {
		others.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if commit(i) == nil {
					commits.Add(1)
				}
			}
		})
	}
	loop(func(int) error { return w.foreignCommit() })
	loop(func(i int) error {
		text := "table inet other { chain c { } }"
		if i%5 == 0 {
			text = "flush ruleset"
		}
		_, err := w.try(text, "nft", "-f", "-")
		return err
	})

	rng := rand.New(rand.NewPCG(3, 6))
	for range 40 {
		a := pod(rng.IntN(20))
		if rng.IntN(3) == 0 {
			n.del(a)
		} else {
			n.add(a)
		}
		if _, err := n.backend.Owners(t.Context()); err != nil {
			t.Errorf("Owners: %v", err)
		}
	}
	close(stop)
	others.Wait()
	if commits.Load() == 0 {
		t.Fatal("nobody else committed")
	}
	t.Logf("%d commits of others", commits.Load())

	n.add(pod(101))
	n.wantClean()
	changed := w.unordered()
	w.nft("flush ruleset")
	n.rewritesTo(w, changed)
}

// foreignCommit is one transaction of somebody else's.
func (w *world) foreignCommit() error {
	return w.do(func() error { return new(Backend).send("somebody", delta{gone: []object{table{}}}.write, 0) })
}

// A random sequence of changes and damage, each followed by a change, leaves
// what a clean table with the same attachments would hold.
func TestRandomChanges(t *testing.T) {
	clean, w := newWorld(t), newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	rng := rand.New(rand.NewPCG(1, 2))
	kinds := everything()
	damage := []string{"flush ruleset", "delete table inet hostport", "flush table inet hostport", "flush chain inet hostport " + chainClients}
	for i := range 60 {
		if rng.IntN(6) == 0 {
			_, _ = w.try(damage[rng.IntN(len(damage))], "nft", "-f", "-")
			n.add(pod(200))
		}
		var some []*hostport.Attachment
		for range 1 + rng.IntN(3) {
			some = append(some, kinds[rng.IntN(len(kinds))])
		}
		some = distinctKeys(some)
		if rng.IntN(2) == 0 {
			n.add(some...)
		} else {
			n.del(some...)
		}
		err := clean.do(func() error {
			_, _, err := n.backend.Rewrite(t.Context(), n.held, conformance.Fingerprint(n.held))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(clean.unordered(), w.unordered()); diff != "" {
			t.Fatalf("change %d (-clean +changed):\n%s", i, diff)
		}
	}
}

// What others do after a change that had nothing to write is seen: the kernel
// counts no commit for it.
func TestNothingWritten(t *testing.T) {
	damage := "flush chain inet hostport " + chainClients
	after := map[string]func(n *node){
		"deleted what was never added": func(n *node) { n.del(pod(2)) },
		"added what maps nothing": func(n *node) {
			n.add(pod(2, func(a *hostport.Attachment) { a.Mappings = nil }))
		},
		"wrote what a killed invocation had written": func(n *node) {
			seen, held := n.seen, n.held
			n.add(pod(2))
			n.seen, n.held = seen, held
			n.add(pod(2))
		},
		"added again what is there": func(n *node) { n.add(pod(1)) },
	}
	for name, change := range after {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := &node{t: t, backend: new(Backend)}
			n.add(pod(1))
			change(n)
			w.nft(damage)
			n.add(pod(3))
			n.wantClean()
		})
	}
}

func distinctKeys(as []*hostport.Attachment) []*hostport.Attachment {
	seen := make(map[hostport.Key]bool)
	var out []*hostport.Attachment
	for _, a := range as {
		if !seen[a.Key] {
			seen[a.Key] = true
			out = append(out, a)
		}
	}
	return out
}
