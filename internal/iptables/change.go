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
	before, after := wantAll(f, c.Remove), wantAll(f, c.Add)
	chains, err := chainChanges(f, c, before.chains, after.chains)
	if err != nil {
		return nil, err
	}
	going := make(map[string]bool)
	for _, ch := range chains {
		t := s.of(ch.table)
		switch {
		case !ch.after:
			going[ch.name] = true
			t.drop = append(t.drop, ch.name)
			continue
		case !ch.before:
			t.create = append(t.create, ch.name)
		case ch.differs:
			t.flush = append(t.flush, ch.name)
		default:
			t.check = append(t.check, ch.jumps...)
			continue
		}
		t.put(ch.name, ch.body...)
		t.add = append(t.add, ch.jumps...)
	}
	for _, ch := range chains {
		for _, j := range ch.jumps {
			if !ch.after && !going[j.chain] {
				s.of(ch.table).remove = append(s.of(ch.table).remove, j)
			}
		}
	}
	s.nat.replace(before.ports, after.ports, going)
	return s, nil
}

// replace adds what takes away the rules of before and makes those of after. Rules
// of both stay where they are. going are the chains that go.
func (s *script) replace(before, after [][]rule, going map[string]bool) {
	in := func(groups [][]rule, g []rule) bool {
		return slices.ContainsFunc(groups, func(o []rule) bool { return slices.Equal(o, g) })
	}
	for _, g := range before {
		switch {
		case going[g[0].chain]:
		case in(after, g):
			s.check = append(s.check, g...)
		default:
			s.remove = append(s.remove, g...)
		}
	}
	for _, g := range after {
		if !in(before, g) {
			// At the head: should a stale rule be in the chain, it must not win.
			s.head = append(s.head, g...)
		}
	}
}

// wantAll returns the rules of all.
func wantAll(f hostport.Family, all []*hostport.Attachment) (out wanted) {
	for _, a := range all {
		w := wantRules(f, a)
		out.chains, out.ports = append(out.chains, w.chains...), append(out.ports, w.ports...)
	}
	return out
}

// chainChange is a chain of which a change must know whether it is there before
// and after.
type chainChange struct {
	chain
	before, after bool
	// differs says that its rules are others after the change.
	differs bool
}

// chainChanges returns the chains that the change's attachments need, before it or
// after it, parents first.
func chainChanges(f hostport.Family, c backend.Change, before, after []chain) ([]*chainChange, error) {
	at := make(map[string]*chainChange)
	var out []*chainChange
	find := func(ch chain) *chainChange {
		x := at[ch.name]
		if x == nil {
			x = &chainChange{chain: ch}
			at[ch.name] = x
			out = append(out, x)
		}
		return x
	}
	for _, ch := range before {
		find(ch).before = true
	}
	for _, ch := range after {
		x := find(ch)
		x.after, x.differs = true, !slices.Equal(x.body, ch.body)
		x.chain = ch
	}
	first, last := c.Before.Of(f) == 0, c.After.Of(f) == 0
	for _, x := range out {
		if x.before && x.after || x.own || first || last {
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
