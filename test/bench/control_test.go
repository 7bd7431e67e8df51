//go:build bench

package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/test/world"
)

// measured has the address that every measured attachment gets.
var measured = map[string][]string{
	"v4":   {"10.244.0.250/24"},
	"dual": {"10.244.0.250/24", "fd00:10:244::fa/64"},
}

var verbs = []string{"ADD", "CHECK", "DEL"}

// TestControl measures ADD, CHECK and DEL of one attachment as whole
// processes, on nodes of all kinds.
func TestControl(t *testing.T) {
	empty, meter := program(t, "empty"), program(t, "peak")
	for _, backend := range world.Backends {
		for _, n := range pick([]int{0, 1000, 5000}, 1) {
			t.Run(fmt.Sprintf("%s/services=%d", backend, n), func(t *testing.T) {
				w := world.New(t, world.Options{Backend: backend})
				track(w)
				w.Services(n)
				pod := w.NewNetwork(world.NetworkOptions{}).MustAdd(t, "first")
				held := 0
				for _, m := range pick([]int{0, 100, 1000}, 2) {
					fill(t, w, pod, held, m)
					held = m
					for _, family := range pick([]string{"v4", "dual"}, 1) {
						c := newControl(w, pod, family)
						c.labels = labels("backend", backend, "services", n, "mappings", m, "family", family)
						c.times(t, empty)
						c.processes(t)
						c.memory(t, meter, empty)
					}
				}
			})
		}
	}
}

// track has the node track connections, as any does that has a firewall or
// kube-proxy. Where nobody asked for it, the first rule that does has the kernel
// patch its code and walk its table of connections, which takes a millisecond,
// or with half a million of them a third of a second.
func track(w *world.World) {
	w.NFT("table inet firewall {\n chain input {\n  type filter hook input priority 0\n  ct state established accept\n }\n}\n")
}

// fill adds mappings of ours, ten a pod, until the node has that many. One
// sandbox serves for all: nobody enters it.
func fill(t *testing.T, w *world.World, pod *world.Attachment, have, want int) {
	t.Helper()
	ours, _ := subjects(w)
	for ; have < want; have += 10 {
		c := call{
			world: w, subject: ours, container: fmt.Sprintf("filler-%d", have), netns: pod.Pod.Netns.Path,
			addresses: []string{fmt.Sprintf("10.244.0.%d/24", 20+have/10), fmt.Sprintf("fd00:10:244::%x/64", 20+have/10)},
		}
		for i := range 10 {
			c.mappings = append(c.mappings, tcp(10000+have+i))
		}
		c.verb(t, "ADD")
	}
}

// control is one attachment, ours, the peer's and one without mappings, on a
// node of one kind.
type control struct {
	ours, peer, bare call
	labels           map[string]string
}

func newControl(w *world.World, pod *world.Attachment, family string) *control {
	ours, peer := subjects(w)
	of := func(s subject) call {
		return call{
			world: w, subject: s, container: "measured-" + s.name, netns: pod.Pod.Netns.Path,
			addresses: measured[family], mappings: []map[string]any{tcp(60001)},
		}
	}
	c := &control{ours: of(ours), peer: of(peer), bare: of(ours)}
	c.bare.mappings, c.bare.container = nil, "measured-bare"
	return c
}

// observed names what was measured.
type observed struct{ subject, verb string }

// times measures both subjects and the floor in turn, so that a drift of the
// machine's speed meets all of them.
func (c *control) times(t *testing.T, empty string) {
	t.Helper()
	found := map[observed]*series{}
	observe := func(subject, verb string, r run) {
		k := observed{subject, verb}
		if found[k] == nil {
			found[k] = &series{}
		}
		found[k].add(r)
	}
	start := time.Now()
	for i := range runs(20) + 1 {
		if i == 1 {
			clear(found) // the first round warms up
			start = time.Now()
		}
		r, err := process(c.ours.world, empty, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		observe("empty program", "run", r)
		for _, verb := range verbs {
			observe("no mappings", verb, c.bare.verb(t, verb))
		}
		for _, verb := range verbs {
			observe("hostport", verb, c.ours.verb(t, verb))
		}
		if enough(i-1, start) {
			continue
		}
		for _, verb := range verbs {
			observe("portmap", verb, c.peer.verb(t, verb))
		}
	}
	for k, s := range found {
		l := with(c.labels, "verb", k.verb)
		record(t, "control", k.subject, l, "ms", s.wall)
		record(t, "control-cpu", k.subject, l, "ms", s.cpu)
		record(t, "control-faults", k.subject, l, "pages", s.faults)
	}
}

// processes counts what ADD, CHECK and DEL start, and holds the promise: none
// on nftables, one a family on iptables, none for a pod without mappings.
func (c *control) processes(t *testing.T) {
	t.Helper()
	families := len(c.ours.addresses)
	for _, one := range []struct {
		name string
		call
		most int
	}{{"hostport", c.ours, families}, {"portmap", c.peer, 1000}, {"no mappings", c.bare, 0}} {
		if one.name == "hostport" && c.ours.world.Backend == world.NFTables {
			one.most = 0
		}
		for _, verb := range verbs {
			n := one.started(t, verb)
			record(t, "control-processes", one.name, with(c.labels, "verb", verb), "processes", []float64{float64(n)})
			if n > one.most {
				t.Errorf("%s %s %v: started %d processes, want at most %d", one.name, verb, c.labels, n, one.most)
			}
		}
	}
}

func (c *control) memory(t *testing.T, meter, empty string) {
	t.Helper()
	const times = 3
	for name, one := range map[string]call{"hostport": c.ours, "portmap": c.peer, "no mappings": c.bare} {
		found := map[string][]float64{}
		for range times {
			for _, verb := range verbs {
				found[verb] = append(found[verb], one.peak(t, meter, verb))
			}
			if name == "portmap" {
				break // it would take minutes
			}
		}
		for verb, xs := range found {
			record(t, "control-memory", name, with(c.labels, "verb", verb), "KiB", xs)
		}
	}
	var floor []float64
	for range times {
		kib, err := peak(c.ours.world, meter, empty, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		floor = append(floor, kib)
	}
	record(t, "control-memory", "empty program", with(c.labels, "verb", "run"), "KiB", floor)
}
