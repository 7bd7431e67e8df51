package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Check compares what the tools list with the rules that these attachments
// should have, and with the base that leads to them. The error names each
// difference. It reads each family that the attachments use once.
func (b *Backend) Check(ctx context.Context, atts []*hostport.Attachment) error {
	var errs []error
	for _, f := range hostport.Families() {
		if !uses(f, atts) {
			continue
		}
		there, err := b.look(ctx, f, atts)
		if err != nil {
			errs = append(errs, fmt.Errorf("check %s: %w", f, err))
			continue
		}
		c := check{family: f, there: there, listings: make(map[string]*listing)}
		c.shares(atts)
		if err := b.checkRevision(&c); err != nil {
			errs = append(errs, err)
		}
		for _, a := range atts {
			c.attachment(a)
		}
		c.confirm(func(r rule) error {
			return b.restore(ctx, f, "*"+natTable+"\n-C "+r.String()+"\nCOMMIT\n")
		})
		errs = append(errs, c.found...)
	}
	return errors.Join(errs...)
}

// check collects the differences of one family.
type check struct {
	family hostport.Family
	there  ruleset
	found  []error
	// doubtful are rules with conditions that are not listed as they were
	// written. The tool itself must tell whether they mean the same.
	doubtful []doubt
	listings map[string]*listing
}

type doubt struct {
	own own
	a   *hostport.Attachment
}

func (c *check) differ(format string, args ...any) {
	c.found = append(c.found, fmt.Errorf("%s: "+format, append([]any{c.family}, args...)...))
}

// shares checks what the attachments have in common.
func (c *check) shares(atts []*hostport.Attachment) {
	seen := make(map[string]bool)
	for _, a := range atts {
		for _, sh := range sharesOf(c.family, a) {
			if !seen[sh.name] {
				seen[sh.name] = true
				c.share(sh)
			}
		}
	}
}

func (c *check) share(sh share) {
	t := c.there.of(sh.table)
	if !t.has(sh.chain) {
		c.differ("table %s has no chain %s", sh.table, sh.chain)
	} else if sh.body != nil && !slices.Equal(sh.body, t.rules[sh.chain]) {
		c.differ("table %s: chain %s holds %s instead of %s", sh.table, sh.chain, list(t.rules[sh.chain]), list(sh.body))
	}
	for _, j := range sh.jumps {
		rules := t.rules[j.chain]
		n := count(rules, j.spec)
		switch {
		case n == 0:
			c.differ("table %s: no jump from %s to %s: missing rule %q", sh.table, j.chain, sh.chain, j.spec)
		case n > 1:
			c.differ("table %s: %d jumps from %s to %s instead of one", sh.table, n, j.chain, sh.chain)
		case !j.first && inPlace(j, rules) < 0:
			c.differ("table %s: in %s the jump to %s is ahead of %s: host ports take over the traffic of Services", sh.table, j.chain, sh.chain, servicesChain)
		}
		if !ours(j.chain) {
			continue
		}
		for _, spec := range rules[:max(slices.Index(rules, j.spec), 0)] {
			if !ours(target(spec)) {
				c.differ("table %s: in %s a rule that is not its own comes ahead of the jump to %s: %q", sh.table, j.chain, sh.chain, spec)
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

func list(rules []string) string {
	if len(rules) == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%q", rules)
}

// listing is the nat chain of that name.
func (c *check) listing(chain string) *listing {
	l := c.listings[chain]
	if l == nil {
		l = newListing(c.there.of(natTable).rules[chain])
		c.listings[chain] = l
	}
	return l
}

// own is a rule that an attachment should have.
type own struct {
	rule
	fields
	port string // for people
}

// attachment checks the rules of one attachment: all there, each once, in
// order, and nothing ahead of them that takes their packets.
func (c *check) attachment(a *hostport.Attachment) {
	chain, rules := ownRules(c.family, a)
	if chain != "" && !c.there.of(natTable).has(chain) {
		c.differ("%s: table nat has no chain %s", a.Owner(), chain)
	}
	owns := make([]own, len(rules))
	mine := make(map[rule]bool, len(rules))
	ways := make(map[string]int) // by port, the rules that lead to the own chain
	for i, r := range rules {
		x, err := parseFields(r.spec)
		if err != nil {
			c.differ("%s: %w", a.Owner(), err)
			return
		}
		owns[i] = own{r, x, fmt.Sprintf("%d/%s", x.port, x.protocol)}
		mine[r] = true
		if chain != "" && x.target == chain {
			ways[owns[i].port]++
		}
	}
	last := make(map[string]int) // by chain and port, the place of the latest rule
	for _, o := range owns {
		var at int
		if chain != "" && o.target == chain {
			at = c.way(a, o, ways[o.port])
		} else {
			at = c.present(a, o)
		}
		if at < 0 {
			continue
		}
		key := o.chain + " " + o.port
		if before, ok := last[key]; ok && at < before && (o.target == "DNAT" || o.destination.IsValid()) {
			c.differ("%s: %s: rule %q in %s is ahead of those that must come before it", a.Owner(), o.port, o.spec, o.chain)
		}
		last[key] = max(at, last[key])
		if o.target != "DNAT" && o.target != chain {
			continue
		}
		l := c.listing(o.chain)
		for i, spec := range l.specs[:at] {
			if !l.fields[i].disjoint(o.fields) && !mine[rule{o.chain, spec}] && (chain == "" || l.fields[i].target != chain) {
				c.differ("%s: %s: a rule that is not its own comes first in %s: %q", a.Owner(), o.port, o.chain, spec)
			}
		}
	}
}

// present checks that a mark or DNAT rule is there once, and returns its place.
func (c *check) present(a *hostport.Attachment, o own) int {
	l := c.listing(o.chain)
	switch n := len(l.at[o.spec]); {
	case n == 1:
	case n > 1:
		c.differ("%s: %s: %d rules %q in %s instead of one", a.Owner(), o.port, n, o.spec, o.chain)
	case o.target == "DNAT":
		c.differ("%s: %s: not forwarded to %s: missing rule %q in %s", a.Owner(), o.port, o.to, o.spec, o.chain)
	default:
		c.differ("%s: %s: replies to some clients would miss the node: missing rule %q in %s", a.Owner(), o.port, o.spec, o.chain)
	}
	return l.first(o.spec)
}

// way checks a rule that leads to an attachment's own chain, and returns the
// place of the first that does.
func (c *check) way(a *hostport.Attachment, o own, ways int) int {
	l := c.listing(o.chain)
	leads := l.leads(o.fields)
	switch {
	case len(leads) != ways:
		c.differ("%s: %s: %d rules of its conditions in %s instead of %d: want %q", a.Owner(), o.port, len(leads), o.chain, ways, o.spec)
	case l.first(o.spec) < 0:
		c.doubtful = append(c.doubtful, doubt{o, a})
	}
	if len(leads) == 0 {
		return -1
	}
	return leads[0]
}

// confirm asks whether the doubtful rules exist in other words.
func (c *check) confirm(exists func(rule) error) {
	for _, d := range c.doubtful {
		if err := exists(d.own.rule); err != nil {
			c.differ("%s: %s: its conditions are not those in %s: want %q: %w", d.a.Owner(), d.own.port, d.own.chain, d.own.spec, err)
		}
	}
}
