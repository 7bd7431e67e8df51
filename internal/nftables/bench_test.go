package nftables

import (
	"context"
	"fmt"
	"testing"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// known is a rest whose shared objects are counted once, as the state has them.
type known struct {
	rest
	used map[string]bool
}

func (k known) Uses(share string) (bool, error) { return k.used[share], nil }

// BenchmarkAdd is the steady ADD: the base is there, others use the same sets.
// The DEL in between is not timed: it waits for the kernel's grace period.
func BenchmarkAdd(b *testing.B) {
	for _, held := range []int{1, 1000} {
		b.Run(fmt.Sprintf("beside %d", held), func(b *testing.B) {
			w := newWorld(b)
			var all rest
			for i := range held {
				all = append(all, pod(i+1))
			}
			backend := w.backend()
			ctx := context.Background()
			if err := backend.Sync(ctx, all); err != nil {
				b.Fatal(err)
			}
			a := pod(held + 1)
			add := hostport.Change{Add: []*hostport.Attachment{a}, Rest: known{all, usedBy(all)}}
			for b.Loop() {
				if err := backend.Apply(ctx, add); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := backend.Apply(ctx, add.Inverse()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkIntact is the part of it that reads the rules.
func BenchmarkIntact(b *testing.B) {
	w := newWorld(b)
	all := rest{pod(1)}
	backend := w.backend()
	ctx := context.Background()
	if err := backend.Sync(ctx, all); err != nil {
		b.Fatal(err)
	}
	s, err := plan(hostport.Change{Add: []*hostport.Attachment{pod(2)}, Rest: known{all, usedBy(all)}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if whole, err := backend.intact(ctx, s); !whole || err != nil {
			b.Fatal(whole, err)
		}
	}
}

// BenchmarkCheck reads and compares everything.
func BenchmarkCheck(b *testing.B) {
	w := newWorld(b)
	var all rest
	for i := range 1000 {
		all = append(all, pod(i+1))
	}
	backend := w.backend()
	ctx := context.Background()
	if err := backend.Sync(ctx, all); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := backend.Check(ctx, all[:1]); err != nil {
			b.Fatal(err)
		}
	}
}
