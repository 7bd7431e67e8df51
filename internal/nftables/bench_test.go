package nftables

import (
	"fmt"
	"testing"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/backend/conformance"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// crowd is a node with that many pods.
func crowd(b *testing.B, pods int) *node {
	b.Helper()
	newWorld(b)
	n := &node{t: b, backend: new(Backend)}
	for i := range pods {
		n.held = append(n.held, pod(i+1))
	}
	n.rewrite()
	return n
}

// BenchmarkAdd is the steady ADD: the base is there, others use the same sets.
// The DEL in between is not timed.
func BenchmarkAdd(b *testing.B) {
	for _, held := range []int{1, 1000} {
		b.Run(fmt.Sprintf("beside %d", held), func(b *testing.B) {
			n := crowd(b, held)
			a := pod(held + 1)
			before, after := conformance.Fingerprint(n.held), conformance.Fingerprint(append(n.held, a))
			apply := func(c backend.Change) {
				c.Seen, c.Others = n.seen, conformance.Others(n.held)
				seen, err := n.backend.Apply(b.Context(), c)
				if err != nil {
					b.Fatal(err)
				}
				n.seen = seen
			}
			for b.Loop() {
				apply(backend.Change{Add: []*hostport.Attachment{a}, Before: before, After: after})
				b.StopTimer()
				apply(backend.Change{Remove: []*hostport.Attachment{a}, Before: after, After: before})
				b.StartTimer()
			}
		})
	}
}

// BenchmarkVerify is what a change reads after a foreign commit.
func BenchmarkVerify(b *testing.B) {
	n := crowd(b, 1)
	c, _ := n.change(nil, []*hostport.Attachment{pod(2)})
	d, err := newDelta(c, true)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := n.backend.verify(b.Context(), d, &seen{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheck reads and compares everything.
func BenchmarkCheck(b *testing.B) {
	n := crowd(b, 1000)
	for b.Loop() {
		if _, err := n.backend.Check(b.Context(), n.held[:1], conformance.Fingerprint(n.held)); err != nil {
			b.Fatal(err)
		}
	}
}
