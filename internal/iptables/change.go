package iptables

import (
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// changeScript returns the script that carries out c in family f, and appends the
// new fingerprint to the family's history h. The script fails in the kernel unless
// that is at the end of h. It is empty if c does not touch the family.
func changeScript(f hostport.Family, c backend.Change, h *history) (script, error) {
	s := make(script)
	if !uses(f, c.Remove) && !uses(f, c.Add) {
		return s, nil
	}
	*h = h.follow(s, c.After.Of(f), !uses(f, c.Remove))
	before, after := wantRules(f, c.Remove, 0), wantRules(f, c.Add, 0)
	alone := c.Before.Of(f) == 0 || c.After.Of(f) == 0 // no other attachment uses any chain
	going := make(map[chainID]bool)
	for i, ch := range slices.Concat(before.chains, after.chains) {
		old, next := before.at[ch.chainID], after.at[ch.chainID]
		had, has := old != nil, next != nil
		if had && i >= len(before.chains) {
			continue // it was handled with those of before
		}
		differs := had && has && !slices.Equal(old.specs, next.specs)
		if had != has && !alone && ch.usedBy != nil {
			used, err := ch.usedBy(c.Others)
			if err != nil {
				return nil, fmt.Errorf("look up the attachments that need chain %s: %w", ch.name, err)
			}
			had, has = had || used, has || used
		}
		switch {
		case !has:
			going[ch.chainID] = true
			s.drop(ch.chainID)
		case !had:
			s.line(creating, ch.table, "-N", ch.name)
			s.rules(adding, "-A", ch.chainID, ch.specs...)
		case differs:
			s.line(flushing, ch.table, "-F", ch.name)
			s.rules(adding, "-A", ch.chainID, next.specs...)
		}
		for _, j := range ch.jumps {
			switch {
			case had && has:
				s.rules(checking, "-C", j.chainID, j.spec)
			case has:
				s.rules(adding, ch.verb, j.chainID, j.spec)
			case !going[j.chainID]:
				s.rules(removing, "-D", j.chainID, j.spec)
			}
		}
	}
	for _, g := range before.ports {
		switch {
		case going[g.chainID]:
		case slices.ContainsFunc(after.ports, g.equal):
			s.rules(checking, "-C", g.chainID, g.specs...)
		default:
			s.rules(removing, "-D", g.chainID, g.specs...)
		}
	}
	for _, g := range slices.Backward(after.ports) {
		if slices.ContainsFunc(before.ports, g.equal) {
			continue
		}
		// Insert at the head, the last rule first: a stale rule in the chain must not win.
		for _, spec := range slices.Backward(g.specs) {
			s.rules(adding, "-I", g.chainID, spec)
		}
	}
	return s, nil
}

func uses(f hostport.Family, all []*hostport.Attachment) bool {
	return slices.ContainsFunc(all, func(a *hostport.Attachment) bool { return len(a.Forwards(f)) > 0 })
}
