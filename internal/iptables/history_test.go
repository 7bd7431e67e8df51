package iptables

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/backend/conformance"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// TestAddOnlyAdds: a transaction with nf_tables that renames or deletes anything
// waits for a grace period of the kernel. An ADD beside others must not.
func TestAddOnlyAdds(t *testing.T) {
	n := &node{}
	for i := range maxHistory {
		a := attachment(fmt.Sprintf("id%d", i), maps(fmt.Sprintf("%d:80", 8000+i)))
		text, seen := scriptsFor(t, hostport.IPv4, n.change(nil, []*hostport.Attachment{a}))
		for line := range strings.Lines(text) {
			if verb, _, _ := strings.Cut(line, " "); slices.Contains([]string{"-E", "-X", "-D"}, verb) {
				t.Errorf("the ADD after %d others contains %q", i, line)
			}
		}
		n.atts, n.seen = append(n.atts, a), seen
	}
}

// TestHistory takes random steps, and restores snapshots of earlier ones: a change
// must fail on each that does not have the rules of now.
func TestHistory(t *testing.T) {
	longest := 0
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 1))
		var pool []*hostport.Attachment
		for i := range 120 {
			pool = append(pool, attachment(fmt.Sprintf("id%d", i), maps(fmt.Sprintf("%d:80", 8000+i))))
		}
		type snapshot struct {
			model
			atts []*hostport.Attachment
		}
		var past []snapshot
		n, now := &node{}, newModel()
		for step := range 300 {
			var remove, add []*hostport.Attachment
			switch a := pool[r.IntN(len(pool))]; {
			case !slices.Contains(n.atts, a):
				add = []*hostport.Attachment{a}
			case r.IntN(10) > 0: // more come than go
				continue
			case r.IntN(2) == 0:
				remove = []*hostport.Attachment{a}
			default:
				remove, add = []*hostport.Attachment{a}, []*hostport.Attachment{a}
			}
			c := n.change(remove, add)
			text, seen := scriptsFor(t, hostport.IPv4, c)
			for _, old := range past {
				if err := old.clone().apply(text); err == nil && conformance.Fingerprint(old.atts) != c.Before {
					t.Fatalf("seed %d, step %d: a change goes onto the rules of an earlier time:\n%s", seed, step, text)
				}
			}
			past = append(past, snapshot{now.clone(), n.atts})
			if err := now.apply(text); err != nil {
				t.Fatalf("seed %d, step %d: %v in\n%s", seed, step, err, text)
			}
			n.atts, n.seen = append(n.without(remove), add...), seen
			longest = max(longest, len(historiesBefore(backend.Change{Before: c.After, Seen: seen})[hostport.IPv4]))
			if found := audited(hostport.IPv4, now.ruleset(), n.atts, conformance.Fingerprint(n.atts).V4); len(found) > 0 {
				t.Fatalf("seed %d, step %d: %v", seed, step, found)
			}
		}
	}
	if longest != maxHistory {
		t.Errorf("the longest history is %d", longest)
	}
}

// TestAddAndDelLeaveTheHistory: the ruleset is byte by byte as before.
func TestAddAndDelLeaveTheHistory(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		n := &node{b: w.b}
		a, b, c := attachment("a", maps("8080:80")), attachment("b", maps("8081:80")), attachment("c", maps("8082:80"))
		n.add(t, a)
		n.add(t, b)
		before := w.both()
		n.add(t, c)
		n.agrees(t)
		n.del(t, c)
		n.agrees(t)
		if diff := cmp.Diff(before, w.both()); diff != "" {
			t.Errorf("an ADD and its DEL leave (-before +after):\n%s", diff)
		}
		n.del(t, a)
		if got := w.both(); strings.Contains(got, followedPrefix) {
			t.Errorf("the past of what was deleted is still marked:\n%s", got)
		}
		if n.resyncs > 0 {
			t.Errorf("%d changes failed at first", n.resyncs)
		}
	})
}
