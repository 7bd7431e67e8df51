package state_test

import (
	"context"
	"testing"

	"github.com/hostport-cni/hostport/internal/state"
)

// BenchmarkCycle is what an ADD or DEL asks of the state of 1,000 pods.
func BenchmarkCycle(b *testing.B) {
	o := options(b.TempDir())
	s, err := state.Open(context.Background(), o)
	if err != nil {
		b.Fatal(err)
	}
	fill(b, s, 1000)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := state.Open(context.Background(), o)
		if err != nil {
			b.Fatal(err)
		}
		a := rec(2000, 80)
		for _, fn := range []func(*state.Tx) error{
			func(tx *state.Tx) error { return tx.Put(a) },
			func(tx *state.Tx) error { return tx.SetOpened("cni0", true) },
			func(tx *state.Tx) error { return tx.Delete(a) },
		} {
			if err := s.Update(fn); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
