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
	// scope begins each text: the family, and the variant if it is not in use.
	scope string
	there *ruleset
	// confirm asks the tool whether a rule of table nat exists that is not listed as
	// it was written.
	confirm func(rule) error
	found   []backend.Difference
	// fields are the rules of chains in table nat, each parsed once: a check of
	// thousands of attachments looks at each many times.
	fields map[chainID][]Fields
}

// differ adds a difference. It concerns all attachments if owner is nil, and none if
// owner has no key.
func (c *comparison) differ(owner *hostport.Attachment, format string, args ...any) {
	d := backend.Difference{Text: c.scope + fmt.Sprintf(format, args...), Shared: owner == nil}
	if owner != nil {
		d.Owner = owner.Key
	}
	c.found = append(c.found, d)
}

// compare compares the kernel's rules with those that some attachments should have.
func (c *comparison) compare(want *wanted) {
	for _, ch := range want.chains {
		if !c.there.has(ch.chainID) {
			c.differ(ch.owner, "table %s has no chain %s", ch.table, ch.name)
		} else if len(ch.specs) > 0 {
			c.same("", c.there.rules[ch.chainID], ch.group)
		}
		for _, j := range ch.jumps {
			c.jump(ch, j)
		}
	}
	for _, g := range want.ports {
		c.port(g)
	}
}

// same compares a group with all rules in its chain, or those of one port.
func (c *comparison) same(what string, have []string, g group) {
	conditions := strings.HasPrefix(g.name, conditionPrefix) && len(have) == len(g.specs) // partly in a user's wording
	have, want := append(slices.Clip(have), "no rule"), append(slices.Clip(g.specs), "no rule")
	for i := range min(len(have), len(want)) {
		if have[i] != want[i] && !(conditions && c.confirm(rule{g.chainID, want[i]}) == nil) {
			c.differ(g.owner, "rule %d of %schain %s differs: %q, want %q", i+1, what, g.name, have[i], want[i])
			return
		}
	}
}

// jump compares a jump to a shared chain with the rules of the chain that it is in.
func (c *comparison) jump(to *chain, j rule) {
	n := 0
	for i, spec := range c.there.rules[j.chainID] {
		switch {
		case spec == j.spec:
			n++
		case n == 0 && ours(j.name) && !ours(target(spec)):
			c.differ(nil, "in chain %s rule %d of another program comes ahead of the jump to %s: %q", j.name, i+1, to.name, spec)
		case n > 0 && target(spec) == servicesChain:
			c.differ(nil, "in chain %s the jump to %s is ahead of %s: host ports take over the traffic of Services", j.name, to.name, servicesChain)
		}
	}
	if n != 1 {
		c.differ(nil, "chain %s has %d rules %q instead of one", j.name, n, j.spec)
	}
}

// port compares an attachment's rules of one host port with those in the range
// chain that can match its packets. Rules after its own never match them.
func (c *comparison) port(g group) {
	specs := c.there.rules[g.chainID]
	if c.fields[g.chainID] == nil {
		c.fields[g.chainID] = fieldsOf(specs)
	}
	wants := fieldsOf(g.specs)
	var have []string
	for i, x := range c.fields[g.chainID] {
		if slices.ContainsFunc(wants, func(w Fields) bool { return !x.disjoint(w) }) {
			have = append(have, specs[i])
		}
	}
	for len(have) > 0 && !slices.Contains(g.specs, have[len(have)-1]) {
		have = have[:len(have)-1]
	}
	c.same(fmt.Sprintf("port %d/%s in ", wants[0].Port, wants[0].Protocol), have, g)
}

func fieldsOf(specs []string) []Fields {
	out := make([]Fields, len(specs))
	for i, spec := range specs {
		out[i] = ParseFields(spec)
	}
	return out
}

// strays finds chains and rules of ours that are not wanted. It skips chains that
// compare compares completely.
func (c *comparison) strays(want *wanted) {
	known := make(map[rule]bool, 4*len(want.ports))
	for _, ch := range want.chains {
		for _, j := range ch.jumps {
			known[j] = true
		}
	}
	for _, g := range want.ports {
		for _, spec := range g.specs {
			known[rule{g.chainID, spec}] = true
		}
	}
	for _, p := range c.there.chains {
		ch := want.at[p]
		if ch != nil && len(ch.specs) > 0 {
			continue
		}
		mark := strings.HasPrefix(p.name, fingerprintPrefix) || strings.HasPrefix(p.name, followedPrefix)
		if ours(p.name) && ch == nil && !mark { // a surplus one is harmless, and the next rewrite deletes it
			c.differ(new(hostport.Attachment), "chain %s of table %s belongs to no attachment", p.name, p.table)
		}
		for _, spec := range c.there.rules[p] {
			if !known[rule{p, spec}] && (ours(p.name) || leadsToUs(spec)) {
				owner, _ := hostport.ParseTag(ParseFields(spec).Comment)
				c.differ(&owner, "in chain %s of table %s a rule belongs to no attachment: %q", p.name, p.table, spec)
			}
		}
	}
}
