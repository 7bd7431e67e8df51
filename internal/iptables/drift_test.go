package iptables

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// TestRestoredSnapshotIsDrift: some pods came since the rules were saved, and some
// went. Whatever comes next, the rules are then those of the records.
func TestRestoredSnapshotIsDrift(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		n := &node{b: w.b}
		a := attachment("a", maps("8080:80"), addresses("10.244.0.2/24"))
		b := attachment("b", maps("8081:80"), addresses("10.244.0.3/24"))
		c := attachment("c", maps("9090:80"), addresses("10.244.0.4/24"))
		d := attachment("d", maps("53:53/udp"), addresses("10.244.0.5/24"))
		save := func() string { return w.run("", "iptables-save") }
		resynced := func(change func()) {
			t.Helper()
			before := n.resyncs
			change()
			if n.resyncs != before+1 {
				t.Error("the change did not see that the rules were restored")
			}
			n.agrees(t)
		}
		n.add(t, a)
		early := save()
		n.add(t, b)
		late := save()
		w.run(early, "iptables-restore")
		if got := n.differences(t, a); !strings.Contains(got, "table nat has no chain "+fingerprintPrefix) {
			t.Errorf("Check: %s", got)
		}
		resynced(func() { n.add(t, c) }) // b serves again
		n.del(t, b)
		w.run(late, "iptables-restore")
		resynced(func() { n.add(t, d) })
		if got := w.both(); strings.Contains(got, "10.244.0.3") {
			t.Errorf("rules lead to b:\n%s", got)
		}
		w.run(late, "iptables-restore")
		again := *a
		resynced(func() { n.apply(t, []*hostport.Attachment{a}, []*hostport.Attachment{&again}) }) // a is in both
		current := save()
		n.del(t, c)
		n.add(t, c)
		w.run(current, "iptables-restore") // holds the same attachments
		n.del(t, n.atts...)
		if left := w.both(); strings.Contains(left, prefix) {
			t.Errorf("left:\n%s", left)
		}
	})
}

// TestDriftIsTold: the error of a change says whether the kernel was not at Before,
// and nothing of the change was applied.
func TestDriftIsTold(t *testing.T) {
	one := []*hostport.Attachment{everything()}
	beside := []*hostport.Attachment{attachment("b", maps("8081:80"), addresses("10.244.0.41/24", "fd00:10:244::29/64"), localnet)}
	for name, c := range map[string]struct {
		there  []*hostport.Attachment
		change backend.Change
	}{
		"first, but rules are there": {beside, change(nil, nil, one)},
		"last, but none are there":   {nil, change(nil, one, nil)},
		"last, but others are there": {beside, change(nil, one, nil)},
		"beside others that are not": {nil, change(beside, nil, one)},
		"again, but not there":       {beside, change(beside, one, one)},
		"again, with none there":     {nil, change(nil, one, one)},
		"gone already":               {beside, change(beside, one, nil)},
	} {
		t.Run(name, func(t *testing.T) {
			eachVariant(t, func(t *testing.T, w *world) {
				rewrite(t, w.b, c.there)
				before := w.both()
				_, err := w.b.Apply(t.Context(), c.change)
				if !errors.Is(err, backend.ErrDrift) {
					t.Errorf("Apply: %v", err)
				}
				if diff := cmp.Diff(before, strings.ReplaceAll(w.both(), "*raw\nCOMMIT\n", "")); diff != "" && !strings.Contains(diff, guardChain) {
					t.Errorf("-before +after:\n%s", diff)
				}
			})
		})
	}
}
