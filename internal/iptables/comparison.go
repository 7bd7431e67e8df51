package iptables

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// comparison collects the differences of one family in one variant.
type comparison struct {
	family hostport.Family
	// scope begins each text: the family, and the variant if it is not in use.
	scope string
	there ruleset
	found []backend.Difference
	// unconfirmed are rules with conditions that are not listed as they were
	// written. The tool itself must tell whether they mean the same.
	unconfirmed []ownedRule
	listings    map[string]*listing
	// wanted are the rules that should be in a chain of ours; nil for a chain
	// that was compared as a whole.
	wanted map[place]map[string]bool
}

type ownedRule struct {
	owner hostport.Key
	rule
}

func newComparison(f hostport.Family, there ruleset) *comparison {
	return &comparison{
		family: f, scope: f.String() + ": ", there: there,
		listings: make(map[string]*listing), wanted: make(map[place]map[string]bool),
	}
}

func (c *comparison) differ(owner hostport.Key, format string, args ...any) {
	c.found = append(c.found, backend.Difference{Owner: owner, Text: c.scope + fmt.Sprintf(format, args...)})
}

// expect notes that a chain should be there, and rules in it.
func (c *comparison) expect(p place, specs ...string) {
	if c.wanted[p] == nil {
		c.wanted[p] = make(map[string]bool)
	}
	for _, s := range specs {
		c.wanted[p][s] = true
	}
}

// compare compares the rules of some attachments, and what they share.
func (c *comparison) compare(some []*hostport.Attachment, fp uint64) {
	if !uses(c.family, some) {
		return
	}
	c.whole(hostport.Key{}, place{natTable, fingerprintChain(fp)}, nil)
	if c.there.of(natTable).has(followedChain(fp)) {
		c.differ(hostport.Key{}, "chain %s of table %s says that more rules came after those on record", followedChain(fp), natTable)
	}
	seen := make(map[string]bool)
	for _, a := range some {
		w := wantRules(c.family, a)
		for _, ch := range w.chains {
			switch {
			case ch.own:
				c.whole(a.Key, ch.place, ch.body)
			case !seen[ch.name]:
				seen[ch.name] = true
				c.shared(ch)
			}
		}
		for _, g := range w.ports {
			c.port(a.Key, g)
		}
	}
}

// whole compares all rules of a chain.
func (c *comparison) whole(owner hostport.Key, p place, want []string) {
	c.wanted[p] = nil
	t := c.there.of(p.table)
	if !t.has(p.name) {
		c.differ(owner, "table %s has no chain %s", p.table, p.name)
		return
	}
	have := t.rules[p.name]
	if len(have) == len(want) && strings.HasPrefix(p.name, conditionPrefix) {
		for i, spec := range want {
			if have[i] != spec {
				c.unconfirmed = append(c.unconfirmed, ownedRule{owner, rule{chain: p.name, spec: spec}})
			}
		}
		return
	}
	at := func(specs []string, i int) string {
		if i >= len(specs) {
			return "nothing"
		}
		return fmt.Sprintf("%q", specs[i])
	}
	for i := range max(len(have), len(want)) {
		if h, w := at(have, i), at(want, i); h != w {
			c.differ(owner, "rule %d of chain %s differs: %s, want %s", i+1, p.name, h, w)
			return
		}
	}
}

// shared compares a shared chain, and the jumps to it.
func (c *comparison) shared(ch chain) {
	t := c.there.of(ch.table)
	if ch.body != nil {
		c.whole(hostport.Key{}, ch.place, ch.body)
	} else if c.expect(ch.place); !t.has(ch.name) {
		c.differ(hostport.Key{}, "table %s has no chain %s", ch.table, ch.name)
	}
	for _, j := range ch.jumps {
		c.expect(place{ch.table, j.chain}, j.spec)
		rules := t.rules[j.chain]
		n := count(rules, j.spec)
		switch {
		case n == 0:
			c.differ(hostport.Key{}, "missing rule %q in chain %s of table %s", j.spec, j.chain, ch.table)
		case n > 1:
			c.differ(hostport.Key{}, "%d rules %q in chain %s of table %s instead of one", n, j.spec, j.chain, ch.table)
		case !j.first && inPlace(j, rules) < 0:
			c.differ(hostport.Key{}, "in chain %s the jump to %s is ahead of %s: host ports take over the traffic of Services", j.chain, ch.name, servicesChain)
		}
		if !ours(j.chain) {
			continue
		}
		for _, spec := range rules[:max(slices.Index(rules, j.spec), 0)] {
			if !ours(target(spec)) {
				c.differ(hostport.Key{}, "in chain %s a rule of another program comes ahead of the jump to %s: %q", j.chain, ch.name, spec)
			}
		}
	}
}

func count(rules []string, spec string) int {
	n := 0
	for _, r := range rules {
		if r == spec {
			n++
		}
	}
	return n
}

// port compares an attachment's rules of one host port in a range chain: each
// once, one after the other, and no rule ahead of them that takes their packets.
func (c *comparison) port(owner hostport.Key, g []rule) {
	chain := g[0].chain
	l := c.listings[chain]
	if l == nil {
		l = newListing(c.there.of(natTable).rules[chain])
		c.listings[chain] = l
	}
	wants := make([]Fields, len(g))
	whole := true
	for i, r := range g {
		c.expect(place{natTable, chain}, r.spec)
		wants[i] = ParseFields(r.spec)
		if n := len(l.at[r.spec]); n != 1 {
			whole = false
			c.differ(owner, "%d/%s: %d rules %q in chain %s instead of one", wants[i].Port, wants[i].Protocol, n, r.spec, chain)
		}
	}
	if !whole {
		return
	}
	first := l.at[g[0].spec][0]
	for i, r := range g {
		if l.at[r.spec][0] != first+i {
			c.differ(owner, "%d/%s: rule %q is out of place in chain %s", wants[i].Port, wants[i].Protocol, r.spec, chain)
			return
		}
	}
	for i, spec := range l.specs[:first] {
		if slices.ContainsFunc(wants, func(w Fields) bool { return !l.fields[i].disjoint(w) }) {
			c.differ(owner, "%d/%s: a rule that is not its own comes first in chain %s: %q", wants[0].Port, wants[0].Protocol, chain, spec)
		}
	}
}

// strays finds chains and rules of ours that nobody owns.
func (c *comparison) strays() {
	for _, name := range tablesOf(c.family) {
		t := c.there.of(name)
		for _, chain := range t.chains {
			wanted, known := c.wanted[place{name, chain}]
			if ours(chain) && !known && !t.marksPast(chain) {
				c.differ(hostport.Key{}, "chain %s of table %s belongs to no attachment", chain, name)
			}
			if known && wanted == nil {
				continue // compared as a whole
			}
			for _, spec := range t.rules[chain] {
				if !wanted[spec] && (ours(chain) || strings.Contains(spec, prefix) && ours(target(spec))) {
					tag, _ := hostport.ParseTag(ParseFields(spec).Comment)
					c.differ(tag.Key, "in chain %s of table %s a rule belongs to no attachment: %q", chain, name, spec)
				}
			}
		}
	}
}

// listing is one chain as it was listed, indexed for lookups of single rules: a
// check of thousands of attachments makes thousands of them.
type listing struct {
	specs  []string
	fields []Fields
	at     map[string][]int
}

func newListing(specs []string) *listing {
	l := &listing{specs: specs, fields: make([]Fields, len(specs)), at: make(map[string][]int, len(specs))}
	for i, spec := range specs {
		l.at[spec] = append(l.at[spec], i)
		l.fields[i] = ParseFields(spec)
	}
	return l
}
