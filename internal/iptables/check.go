package iptables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Check reads each family that these attachments use once.
func (b *Backend) Check(ctx context.Context, some []*hostport.Attachment, fp hostport.Fingerprint) (found []backend.Difference, err error) {
	err = eachFamily(func(f hostport.Family) error {
		if !uses(f, some) {
			return nil
		}
		want := wantRules(f, some, fp.Of(f))
		there, err := b.look(ctx, f, want)
		if err == nil {
			c := b.comparison(ctx, f, there)
			c.compare(want)
			found = append(found, c.found...)
		}
		return err
	})
	return found, err
}

// look reads the chains that Check compares, with one process. If one of them cannot be
// listed, because it does not exist, it holds rules that the tool does not understand, or
// another program holds the lock, it calls read, which returns more and takes no lock.
func (b *Backend) look(ctx context.Context, f hostport.Family, want *wanted) (*ruleset, error) {
	var asked []chainID
	for _, ch := range want.chains {
		asked = append(asked, ch.chainID)
		for _, j := range ch.jumps {
			asked = append(asked, j.chainID)
		}
	}
	slices.SortFunc(asked, func(x, y chainID) int { // table nat last
		return cmp.Or(cmp.Compare(y.table, x.table), cmp.Compare(x.name, y.name))
	})
	r, err := b.ask(ctx, command(f)+"-restore", "-S", new(ruleset), slices.Compact(asked))
	if err == nil || errors.Is(err, context.DeadlineExceeded) { // a tool that hung would hang again
		return r, err
	}
	v, err := b.current(ctx, f)
	if err != nil {
		return nil, err
	}
	return b.read(ctx, v, false)
}

// Audit compares the rules in both variants.
func (b *Backend) Audit(ctx context.Context, all []*hostport.Attachment, fp hostport.Fingerprint) (found []backend.Difference, err error) {
	unread, err := b.saved(ctx, all, false, func(v variant, there *ruleset) {
		c, want := b.comparison(ctx, v.family, there), v.want(all, fp)
		if !v.inUse() {
			c.scope += v.name + ": "
		}
		c.compare(want)
		c.strays(want)
		found = append(found, c.found...)
	})
	return found, errors.Join(err, unread)
}

func (b *Backend) comparison(ctx context.Context, f hostport.Family, there *ruleset) *comparison {
	return &comparison{scope: f.String() + ": ", there: there, fields: make(map[chainID][]Fields), confirm: func(r rule) error {
		s := make(script)
		s.rules(checking, "-C", r.chainID, r.spec)
		return b.restore(ctx, command(f)+"-restore", s.String(), b.Wait)
	}}
}

// eachFamily calls do for each family, and joins the errors.
func eachFamily(do func(hostport.Family) error) error {
	var errs []error
	for _, f := range hostport.Families() {
		if err := do(f); err != nil {
			errs = append(errs, &backend.FamilyError{Family: f, Err: err})
		}
	}
	return errors.Join(errs...)
}

// saved calls fn with the rules of each variant that may hold rules of ours, and of the
// one in use if all need rules; counted is as for read. err joins the errors of what
// could not be read. unread reports rules of ours in a variant that is not in use and has
// no tools.
func (b *Backend) saved(ctx context.Context, all []*hostport.Attachment, counted bool, fn func(variant, *ruleset)) (unread, err error) {
	err = eachFamily(func(f hostport.Family) error {
		_, gone := lookPath(command(f) + "-save") // then the variant in use is unknown
		variants, err := b.variants(ctx, f, uses(f, all))
		errs := []error{err}
		for _, v := range variants {
			there, err := b.read(ctx, v, counted)
			switch {
			case err == nil:
				fn(v, there)
			case gone == nil && !v.inUse() && errors.Is(err, backend.ErrMissing):
				unread = errors.Join(unread, &backend.FamilyError{Family: f, Err: err})
			case gone != nil && errors.Is(err, backend.ErrMissing):
				errs = append(errs, gone)
			default:
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
	return unread, err
}

// comparison collects the differences of one family in one variant.
type comparison struct {
	// scope begins each text: the family, and the variant if it is not in use.
	scope   string
	there   *ruleset
	confirm func(rule) error // asks the tool whether a rule exists, however it is listed
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
