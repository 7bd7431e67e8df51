package nftables

import (
	"errors"
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// What a change returns is the generation where it left the ruleset, whether or
// not others committed before it.
func TestGenerationIsSeen(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	for i, change := range []func(){
		func() { n.add(pod(1)) },
		func() { n.add(pod(2)) },
		func() { n.del(pod(1)) },
		func() { n.add(pod(2)) }, // commits nothing
		func() { w.nft("add table ip foreign"); n.del(pod(2)); n.add(pod(3)) },
		func() { w.nft("add table ip foreign2"); n.add(pod(4)) },
		func() { w.nft("flush chain inet hostport prerouting"); n.del(pod(4)) }, // rewritten
		func() { n.add(pod(6)) },
		func() { n.rewrite() },
		func() { w.nft("add chain inet hostport mine"); n.rewrite() },
	} {
		change()
		if s, now := parseSeen(n.seen), n.backend.generation(); s.generation != now {
			t.Errorf("change %d: generation %d was seen, the kernel's is %d", i, s.generation, now)
		}
	}
	if n.resyncs != 1 {
		t.Errorf("%d resyncs, want 1", n.resyncs)
	}
	n.wantClean()
}

// Where the generation is the one on record, a change reads nothing: it does not
// notice damage elsewhere in the table.
func TestNothingIsRead(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1))
	w.nft("flush chain inet hostport " + chainClients)
	n.pretendSeen()
	was := parseSeen(n.seen)
	n.add(pod(2))
	n.del(pod(1))
	if n.resyncs != 0 {
		t.Errorf("%d resyncs, want none", n.resyncs)
	}
	if want := (seen{was.generation + 2, was.handles}).String(); n.seen != want {
		t.Errorf("seen is %q, want %q: a commit for each change", n.seen, want)
	}
}

// A table that somebody restored from what he saved earlier looks right, and
// may lack what came since, or hold what went.
func TestRestoredTableIsDrift(t *testing.T) {
	for name, change := range map[string]struct{ before, after func(*node) }{
		"lacks what came":    {func(*node) {}, func(n *node) { n.add(pod(2)) }},
		"holds what went":    {func(n *node) { n.add(pod(2)) }, func(n *node) { n.del(pod(2)) }},
		"is as it was":       {func(*node) {}, func(*node) {}},
		"is of another time": {func(*node) {}, func(n *node) { n.del(pod(1)) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := &node{t: t, backend: new(Backend)}
			n.add(pod(1))
			change.before(n)
			earlier := w.nft("list table inet hostport")
			change.after(n)
			w.load("add table inet hostport\ndelete table inet hostport\n" + earlier)
			n.add(pod(3))
			if n.resyncs != 1 {
				t.Errorf("%d resyncs, want 1", n.resyncs)
			}
			n.wantClean()
			n.del(pod(1), pod(2), pod(3))
			if got := w.nft("list ruleset"); got != "" {
				t.Errorf("left behind:\n%s", got)
			}
		})
	}
}

// A change never removes the rules of an attachment that is not on record, as
// of a node with two data directories.
func TestUnknownOwnersAreDrift(t *testing.T) {
	type pods []*hostport.Attachment
	narrow := pod(1, addressed("10.200.33.7/21"))
	for name, tt := range map[string]struct{ held, unknown, remove, add pods }{
		"first":            {nil, pods{pod(2)}, nil, pods{pod(1)}},
		"last":             {pods{pod(1)}, pods{pod(2)}, pods{pod(1)}, nil},
		"last of a length": {pods{narrow, pod(3)}, pods{pod(2, addressed("10.200.33.8/21"))}, pods{narrow}, nil},
		"same port":        {pods{pod(3)}, pods{pod(2, mapped("8001:80/tcp"))}, nil, pods{pod(1)}},
	} {
		t.Run(name, func(t *testing.T) {
			newWorld(t)
			first := &node{t: t, backend: new(Backend)}
			first.add(tt.held...)
			second := &node{t: t, backend: new(Backend), seen: first.seen, held: first.held}
			second.add(tt.unknown...)

			c, _ := first.change(tt.remove, tt.add)
			if _, err := new(Backend).Apply(t.Context(), c); !errors.Is(err, backend.ErrDrift) {
				t.Errorf("Apply = %v, want drift", err)
			}
			second.wantClean()
		})
	}
}

// Without Seen, rules that are whole are trusted and others are not.
func TestNothingSeen(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1))
	n.seen = ""
	n.add(pod(2))
	n.seen = "of another version"
	n.del(pod(2))
	if n.resyncs != 0 {
		t.Errorf("%d resyncs, want none", n.resyncs)
	}
	w.nft("insert rule inet hostport " + chainClients + " accept")
	c, _ := n.change(nil, []*hostport.Attachment{pod(2)})
	c.Seen = ""
	if _, err := n.backend.Apply(t.Context(), c); !errors.Is(err, backend.ErrDrift) || !strings.Contains(err.Error(), chainClients) {
		t.Errorf("Apply = %v, want drift that names chain %s", err, chainClients)
	}
}
