package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/world"
)

// certainty is what is known of a tenant's attachment from what the plugin
// reported: an invocation that died may have taken effect or not.
type certainty int

const (
	absent certainty = iota
	present
	unknown
)

// tenant is a pod in the churn, alive or not.
type tenant struct {
	*pod
	is certainty
	// ghost: the sandbox is gone and nobody said DEL. Others may take its
	// ports and address, or GC its record, at any time.
	ghost bool
	// blurred: its record was read back from the kernel, which does not know
	// the sandbox's path: another one in the same namespace passes for it.
	blurred bool
}

// churn is a node on which pods come and go while things fail, and the little
// that has to be remembered to tell what must be there.
type churn struct {
	m       *machine
	r       *rand.Rand
	slots   []*tenant // the living, by address
	ghosts  []*tenant // whose records may be there until the next GC
	history []string
	// stateless: the state file was removed, and no ADD has made it again. DEL
	// and GC have nothing to do on such a node.
	stateless bool

	adds, dels, refused, kills, faults int
	discrepancies                      []string
}

const (
	slots     = 24
	firstPort = 8000
	ports     = 40
)

func newChurn(m *machine, seed uint64) *churn {
	return &churn{m: m, r: rand.New(rand.NewPCG(seed, 1)), slots: make([]*tenant, slots)}
}

func (c *churn) note(format string, args ...any) {
	c.history = append(c.history, fmt.Sprintf(format, args...))
	if len(c.history) > 40 {
		c.history = c.history[1:]
	}
}

// differs notes a discrepancy.
func (c *churn) differs(format string, args ...any) {
	d := fmt.Sprintf(format, args...)
	c.discrepancies = append(c.discrepancies, d+"\nafter:\n  "+strings.Join(c.history, "\n  "))
}

func (c *churn) somePorts() []int {
	var out []int
	for range 1 + c.r.IntN(3) {
		if p := firstPort + c.r.IntN(ports); !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// tenantOf returns who lives in a slot, making a new pod if nobody does.
func (c *churn) tenantOf(slot int) *tenant {
	if c.slots[slot] == nil {
		c.slots[slot] = &tenant{pod: c.m.newPod(10+slot, c.somePorts()...)}
	}
	return c.slots[slot]
}

// inTheWay tells whether others certainly or possibly refuse t its ports or its
// address.
func (c *churn) inTheWay(t *tenant) (certainly, possibly bool) {
	for _, o := range slices.Concat(c.slots, c.ghosts) {
		if o == nil || o == t || o.is == absent {
			continue
		}
		if o.n == t.n { // the slot's earlier pod, dead
			possibly = possibly || o.blurred
			continue
		}
		if !slices.ContainsFunc(o.ports, func(p int) bool { return slices.Contains(t.ports, p) }) && o.is == present {
			continue
		}
		switch {
		case o.ghost && !o.blurred: // its ports are free to take
		case o.is == present && !o.ghost:
			certainly = true
		default:
			possibly = true
		}
	}
	return certainly, possibly
}

// add sends an ADD, and judges the answer.
func (c *churn) add(slot int, env ...string) {
	t := c.tenantOf(slot)
	was, before := t.is, t.ports
	if was != absent && c.r.IntN(2) == 0 {
		t.ports = c.somePorts() // a sandbox that is added again may want others
	}
	certainly, possibly := c.inTheWay(t)
	c.stateless = false
	o := c.m.try(c.m.request("ADD", t.pod), env...)
	c.note("ADD slot %d %.6s ports %v %v: exit %d %s", slot, t.id, t.ports, env, o.ExitCode, brief(o))
	switch {
	case o.killed:
		c.kills++
		t.is = unknown
		t.ports = union(t.ports, before)
	case o.ExitCode == 0:
		c.adds++
		t.is = present
		if certainly {
			c.differs("ADD of slot %d took a living owner's port", slot)
		}
	default:
		c.refused++
		t.ports = before
		if !certainly && !possibly {
			c.differs("ADD of slot %d was refused for no reason: %s", slot, o.Stdout)
		}
	}
}

func union(a, b []int) []int {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

func brief(o outcome) string {
	s := strings.TrimSpace(string(o.Stdout))
	if o.ExitCode == 0 {
		s = ""
	}
	return s + strings.TrimSpace(string(o.Stderr))
}

// del ends a pod: sandbox and DEL, in either order.
func (c *churn) del(slot int, env ...string) {
	t := c.slots[slot]
	if t == nil {
		return
	}
	if c.r.IntN(2) == 0 {
		t.die()
	}
	o := c.m.try(c.m.request("DEL", t.pod), env...)
	c.note("DEL slot %d %.6s %v: exit %d %s", slot, t.id, env, o.ExitCode, brief(o))
	t.die()
	c.slots[slot] = nil
	switch {
	case o.killed:
		c.kills++
		t.ghost, t.is = true, unknown
		c.ghosts = append(c.ghosts, t)
	case o.ExitCode == 0 && c.stateless:
		t.ghost, t.is = true, unknown
		c.ghosts = append(c.ghosts, t)
	case o.ExitCode == 0:
		c.dels++
		t.is = absent
	default:
		c.differs("DEL of slot %d failed: %s", slot, o.Stdout)
	}
}

// lose ends a sandbox without a DEL.
func (c *churn) lose(slot int) {
	t := c.slots[slot]
	if t == nil {
		return
	}
	t.die()
	t.ghost = true
	if t.is != absent {
		c.ghosts = append(c.ghosts, t)
	}
	c.slots[slot] = nil
	c.faults++
	c.note("slot %d %.6s dies, its DEL is lost", slot, t.id)
}

// gc keeps the living.
func (c *churn) gc(env ...string) {
	var valid []*pod
	for _, t := range c.slots {
		if t != nil {
			valid = append(valid, t.pod)
		}
	}
	o := c.m.try(c.m.collect(valid...), env...)
	c.note("GC %v: exit %d %s", env, o.ExitCode, brief(o))
	switch {
	case o.killed:
		c.kills++
	case o.ExitCode == 0 && !c.stateless:
		c.ghosts = nil
	case o.ExitCode == 0:
	default:
		c.differs("GC failed: %s", o.Stdout)
	}
}

// burst lets many pods come and go at once. Each slot has one invocation.
func (c *churn) burst(n int) {
	if c.stateless { // which of them is first is not known
		c.verify()
	}
	type result struct {
		t   *tenant
		inv world.Invocation
		out outcome
		err error
	}
	var results []*result
	for _, slot := range c.r.Perm(slots)[:n] {
		t := c.tenantOf(slot)
		verb := "ADD"
		if t.is == present && c.r.IntN(2) == 0 {
			verb = "DEL"
		}
		results = append(results, &result{t: t, inv: c.m.request(verb, t.pod)})
	}
	var wg sync.WaitGroup
	for _, r := range results {
		wg.Go(func() {
			p, err := c.m.start(r.inv)
			if r.err = err; err == nil {
				r.out = p.wait()
			}
		})
	}
	wg.Wait()
	for _, r := range results {
		if r.err != nil {
			c.m.t.Fatal(r.err)
		}
		c.m.sane(r.inv, r.out)
		c.note("burst: %s slot %d %.6s ports %v: exit %d %s", r.inv.Command, r.t.n-10, r.t.id, r.t.ports, r.out.ExitCode, brief(r.out))
		switch {
		case r.inv.Command == "DEL" && r.out.ExitCode == 0:
			c.dels++
			r.t.is = absent
			r.t.die()
			c.slots[r.t.n-10] = nil
		case r.inv.Command == "DEL":
			c.differs("DEL of slot %d failed: %s", r.t.n-10, r.out.Stdout)
		case r.out.ExitCode == 0:
			c.adds++
			r.t.is = present
		default:
			c.refused++
		}
	}
}

// step does one thing at random.
func (c *churn) step() {
	slot := c.r.IntN(slots)
	switch n := c.r.IntN(100); {
	case n < 35:
		c.add(slot)
	case n < 55:
		c.del(slot)
	case n < 60:
		c.lose(slot)
	case n < 68:
		c.add(slot, c.killAt())
	case n < 74:
		c.del(slot, c.killAt())
	case n < 76:
		c.gc(c.killAt())
	case n < 80:
		c.gc()
	case n < 87:
		c.interrupt(slot)
	case n < 93:
		c.disturb()
	default:
		c.burst(8)
	}
}

// verify compares what there is with what was reported. A pod that comes and
// goes first makes the plugin settle, and heal, whatever is to be.
func (c *churn) verify() {
	c.stateless = false
	probe := c.m.newPod(200, 7000)
	for _, verb := range []string{"ADD", "DEL"} {
		if o := c.m.try(c.m.request(verb, probe)); o.ExitCode != 0 {
			c.differs("%s of a pod whose port nobody holds: %s", verb, o.Stdout)
		}
	}
	probe.die()
	// Noise in a record shows when somebody reads it.
	_, _ = c.m.control("list")
	if d := c.m.disagreement(); d != "" {
		c.differs("%s", d)
	}
	records, _ := c.m.recorded()
	byID := map[string]*hostport.Attachment{}
	for i, r := range records {
		byID[r.ContainerID] = r
		for _, o := range records[:i] {
			for _, m := range r.Mappings {
				for _, n := range o.Mappings {
					if m.Overlaps(n) {
						c.differs("%s and %s both hold %s", r.Key, o.Key, m)
					}
				}
			}
		}
	}
	for _, t := range c.slots {
		if t == nil {
			continue
		}
		r := byID[t.id]
		delete(byID, t.id)
		switch {
		case t.is == present && r == nil:
			c.differs("slot %d (%.6s) was added and is not recorded", t.n-10, t.id)
		case t.is == absent && r != nil:
			c.differs("slot %d (%.6s) was refused or deleted and is recorded", t.n-10, t.id)
		case t.is == present && len(r.Mappings) != len(t.mappings()):
			c.differs("slot %d (%.6s) has %v, want %v", t.n-10, t.id, r.Mappings, t.ports)
		}
	}
	for _, g := range c.ghosts {
		delete(byID, g.id)
	}
	for _, r := range byID {
		c.differs("%s is recorded, and should be gone", r.Key)
	}
}
