package iptables

import (
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// rewriteText is the input for iptables-restore that turns what is there in
// family f into the rules of exactly these attachments: "" if there is nothing
// to do. Rules of others are neither moved nor removed.
func rewriteText(f hostport.Family, there ruleset, atts []*hostport.Attachment) string {
	s := newScripts()
	jumps := make(map[string][]jump) // by table, those in chains of others
	seen := make(map[string]bool)
	for _, a := range atts {
		for _, sh := range sharesOf(f, a) {
			if seen[sh.name] {
				continue
			}
			seen[sh.name] = true
			s.create(sh)
			for _, j := range sh.jumps {
				if ours(j.chain) {
					s.of(sh.table).put(j.rule)
				} else {
					jumps[sh.table] = append(jumps[sh.table], j)
				}
			}
		}
	}
	for _, a := range atts {
		chain, rules := ownRules(f, a)
		if chain != "" {
			s.nat.declare = append(s.nat.declare, chain)
		}
		s.nat.put(rules...)
	}
	for _, name := range []string{rawTable, natTable} {
		t, there := s.of(name), there.of(name)
		for _, c := range there.chains {
			if ours(c) && !slices.Contains(t.declare, c) {
				t.drop = append(t.drop, c)
			}
		}
		placeJumps(t, there, jumps[name])
	}
	return s.String()
}

// placeJumps puts each jump once and in its place into the chains of others,
// and removes every other jump to a chain of ours from them.
func placeJumps(s *script, there *table, jumps []jump) {
	for _, chain := range there.chains {
		if ours(chain) {
			continue
		}
		rules := there.rules[chain]
		for i, spec := range rules {
			if ours(target(spec)) && !slices.ContainsFunc(jumps, func(j jump) bool {
				return j.chain == chain && inPlace(j, rules) == i
			}) {
				s.remove = append(s.remove, rule{chain, spec})
			}
		}
	}
	for _, j := range jumps {
		if inPlace(j, there.rules[j.chain]) < 0 {
			s.add = append(s.add, j)
		}
	}
}

// inPlace is the index of the jump's rule in its chain if it is there exactly
// once and where it belongs: at the head, or behind kube-proxy's jump. Else -1.
func inPlace(j jump, rules []string) int {
	at := -1
	for i, spec := range rules {
		switch {
		case spec == j.spec:
			if at >= 0 || j.first && i > 0 {
				return -1
			}
			at = i
		case at >= 0 && !j.first && target(spec) == servicesChain:
			return -1
		}
	}
	return at
}
