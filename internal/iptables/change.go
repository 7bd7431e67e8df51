package iptables

import (
	"fmt"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// changeScripts are what carries out c in family f, given that the kernel holds
// what c says it does. They are empty if c does not touch the family.
func changeScripts(f hostport.Family, c hostport.Change) (*scripts, error) {
	shares, err := fates(f, c)
	if err != nil {
		return nil, err
	}
	s := newScripts()
	going := make(map[string]bool)
	for _, sh := range shares {
		if sh.chain == dnatChain {
			s.base = sh
		}
		switch {
		case sh.before && !sh.after:
			going[sh.chain] = true
		case sh.after && !sh.before:
			s.create(sh.share)
			t := s.of(sh.table)
			t.add = append(t.add, sh.jumps...)
		}
	}
	for _, sh := range shares {
		t := s.of(sh.table)
		for _, j := range sh.jumps {
			switch {
			case sh.before && sh.after:
				t.check = append(t.check, j.rule)
			case sh.before && !going[j.chain]:
				t.remove = append(t.remove, j.rule)
			}
		}
		if going[sh.chain] {
			t.drop = append(t.drop, sh.chain)
		}
	}
	kept := make(map[string]bool) // own chains of attachments that are replaced
	for _, a := range c.Add {
		chain, rules := ownRules(f, a)
		if chain != "" {
			kept[chain] = true
			s.nat.declare = append(s.nat.declare, chain)
		}
		// At the head: should a stale rule be in the chain, it must not win.
		s.nat.head = append(s.nat.head, rules...)
	}
	for _, a := range c.Remove {
		chain, rules := ownRules(f, a)
		for _, r := range rules {
			if r.chain != chain && !going[r.chain] {
				s.nat.remove = append(s.nat.remove, r)
			}
		}
		if chain != "" && !kept[chain] {
			s.nat.drop = append(s.nat.drop, chain)
		}
	}
	return s, nil
}

// fate is whether a share is there before and after a change.
type fate struct {
	share
	before, after bool
}

// fates tells it for every share that the change's attachments use, those that
// others hang from first.
func fates(f hostport.Family, c hostport.Change) ([]fate, error) {
	index := make(map[string]int)
	var out []fate
	collect := func(atts []*hostport.Attachment, mark func(*fate)) {
		for _, a := range atts {
			for _, sh := range sharesOf(f, a) {
				i, ok := index[sh.name]
				if !ok {
					i = len(out)
					index[sh.name] = i
					out = append(out, fate{share: sh})
				}
				mark(&out[i])
			}
		}
	}
	collect(c.Remove, func(x *fate) { x.before = true })
	collect(c.Add, func(x *fate) { x.after = true })
	for i := range out {
		x := &out[i]
		if x.before && x.after || c.Rest == nil {
			continue
		}
		used, err := c.Rest.Uses(x.name)
		if err != nil {
			return nil, fmt.Errorf("look up users of %s: %w", x.name, err)
		}
		if used {
			x.before, x.after = true, true
		}
	}
	return out, nil
}
