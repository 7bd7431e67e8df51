package iptables

import (
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// changeScripts returns what carries out c in family f, and appends it to the
// family's history h. It fails in the kernel unless that is at the end of h. It is
// empty if c does not touch the family.
func changeScripts(f hostport.Family, c backend.Change, h *history) (*scripts, error) {
	s := newScripts()
	if !uses(f, c.Remove) && !uses(f, c.Add) {
		return s, nil
	}
	s.nat.guard, *h = h.follow(c.After.Of(f), !uses(f, c.Remove))
	chains, err := sharedChains(f, c)
	if err != nil {
		return nil, err
	}
	going := make(map[string]bool)
	for _, ch := range chains {
		t := s.of(ch.table)
		switch {
		case ch.after && !ch.before:
			t.create = append(t.create, ch.name)
			t.put(ch.name, ch.body...)
			t.add = append(t.add, ch.jumps...)
		case ch.before && !ch.after:
			going[ch.name] = true
			t.drop = append(t.drop, ch.name)
		}
	}
	for _, ch := range chains {
		t := s.of(ch.table)
		for _, j := range ch.jumps {
			switch {
			case ch.before && ch.after:
				t.check = append(t.check, j.rule)
			case ch.before && !going[j.chain]:
				t.remove = append(t.remove, j.rule)
			}
		}
	}
	s.nat.replace(f, c, going)
	return s, nil
}

// replace adds what takes away the attachments' rules of before and makes those
// of after. Rules of both stay where they are. going are the chains that go.
func (s *script) replace(f hostport.Family, c backend.Change, going map[string]bool) {
	var before, after wanted
	for _, a := range c.Remove {
		before = before.and(wantRules(f, a))
	}
	for _, a := range c.Add {
		after = after.and(wantRules(f, a))
	}
	in := func(groups [][]rule, g []rule) bool {
		return slices.ContainsFunc(groups, func(o []rule) bool { return slices.Equal(o, g) })
	}
	for _, g := range before.ports {
		switch {
		case going[g[0].chain]:
		case in(after.ports, g):
			s.check = append(s.check, g...)
		default:
			s.remove = append(s.remove, g...)
		}
	}
	for _, g := range after.ports {
		if !in(before.ports, g) {
			// At the head: should a stale rule be in the chain, it must not win.
			s.head = append(s.head, g...)
		}
	}
	find := func(chains []ownChain, name string) *ownChain {
		if i := slices.IndexFunc(chains, func(o ownChain) bool { return o.name == name }); i >= 0 {
			return &chains[i]
		}
		return nil
	}
	for _, o := range after.chains {
		switch old := find(before.chains, o.name); {
		case old == nil:
			s.create = append(s.create, o.name)
		case slices.Equal(old.specs, o.specs):
			continue
		default:
			s.flush = append(s.flush, o.name)
		}
		s.put(o.name, o.specs...)
	}
	for _, o := range before.chains {
		if find(after.chains, o.name) == nil {
			s.drop = append(s.drop, o.name)
		}
	}
}

// and returns the rules of both.
func (w wanted) and(o wanted) wanted {
	return wanted{ports: append(w.ports, o.ports...), chains: append(w.chains, o.chains...)}
}

// chainChange is whether a shared chain is there before and after a change.
type chainChange struct {
	sharedChain
	before, after bool
}

// sharedChains returns the shared chains that the change's attachments need,
// parents first.
func sharedChains(f hostport.Family, c backend.Change) ([]chainChange, error) {
	index := make(map[string]int)
	var out []chainChange
	collect := func(atts []*hostport.Attachment, mark func(*chainChange)) {
		for _, a := range atts {
			for _, ch := range chainsFor(f, a) {
				i, ok := index[ch.name]
				if !ok {
					i = len(out)
					index[ch.name] = i
					out = append(out, chainChange{sharedChain: ch})
				}
				mark(&out[i])
			}
		}
	}
	collect(c.Remove, func(x *chainChange) { x.before = true })
	collect(c.Add, func(x *chainChange) { x.after = true })
	first, last := c.Before.Of(f) == 0, c.After.Of(f) == 0
	for i := range out {
		x := &out[i]
		if x.before && x.after || first || last {
			continue // no other attachment can use it
		}
		used := x.usedBy == nil
		if !used {
			var err error
			if used, err = x.usedBy(c.Others); err != nil {
				return nil, fmt.Errorf("look up the attachments that need chain %s: %w", x.name, err)
			}
		}
		if used {
			x.before, x.after = true, true
		}
	}
	return out, nil
}

func uses(f hostport.Family, all []*hostport.Attachment) bool {
	return slices.ContainsFunc(all, func(a *hostport.Attachment) bool { return len(a.Forwards(f)) > 0 })
}
