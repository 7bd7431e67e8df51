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
	s := new(scripts)
	if !uses(f, c.Remove) && !uses(f, c.Add) {
		return s, nil
	}
	s.nat[guarding], *h = h.follow(c.After.Of(f), !uses(f, c.Remove))
	before, after := wantRules(f, c.Remove, 0), wantRules(f, c.Add, 0)
	alone := c.Before.Of(f) == 0 || c.After.Of(f) == 0 // no other attachment uses any chain
	going := make(map[string]bool)
	for i, ch := range slices.Concat(before.chains, after.chains) {
		old, had := before.find(ch.place)
		if had && i >= len(before.chains) {
			continue // it was among those of before
		}
		next, has := after.find(ch.place)
		differs := had && has && !slices.Equal(old.body, next.body)
		if had != has && !alone && ch.usedBy != nil {
			used, err := ch.usedBy(c.Others)
			if err != nil {
				return nil, fmt.Errorf("look up the attachments that need chain %s: %w", ch.name, err)
			}
			had, has = had || used, has || used
		}
		t := s.of(ch.table)
		switch {
		case !has:
			going[ch.name] = true
			t.drop(ch.name)
		case !had:
			t.line(creating, "-N", ch.name)
			t.rules(adding, "-A", ch.name, ch.body...)
		case differs:
			t.line(flushing, "-F", ch.name)
			t.rules(adding, "-A", ch.name, next.body...)
		}
		for _, j := range ch.jumps {
			switch {
			case had && has:
				t.line(checking, "-C", j.chain, j.spec)
			case has:
				t.jump(j)
			case !going[j.chain]:
				t.line(removing, "-D", j.chain, j.spec)
			}
		}
	}
	s.nat.replace(before.ports, after.ports, going)
	return s, nil
}

// replace takes away the rules of before and makes those of after. Rules of both
// stay where they are. going are the chains that go.
func (s *script) replace(before, after []portRules, going map[string]bool) {
	for _, g := range before {
		switch {
		case going[g.chain]:
		case slices.ContainsFunc(after, g.equal):
			s.rules(checking, "-C", g.chain, g.specs...)
		default:
			s.rules(removing, "-D", g.chain, g.specs...)
		}
	}
	for _, g := range slices.Backward(after) {
		if slices.ContainsFunc(before, g.equal) {
			continue
		}
		// At the head, the last one first: should a stale rule be in the chain, it
		// must not win.
		for _, spec := range slices.Backward(g.specs) {
			s.line(adding, "-I", g.chain, spec)
		}
	}
}

func uses(f hostport.Family, all []*hostport.Attachment) bool {
	return slices.ContainsFunc(all, func(a *hostport.Attachment) bool { return len(a.Forwards(f)) > 0 })
}
