package iptables

import (
	"context"
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Another program may commit between the read and the write of a rewrite.
const rewriteTries = 3

// rewrite reads one family and makes it hold the rules of exactly these
// attachments. Those of add are made whole, or it fails and changes nothing.
// Of rest, what the kernel refuses because others took away what it depends on
// is left out.
func (b *Backend) rewrite(ctx context.Context, f hostport.Family, rest, add []*hostport.Attachment) error {
	err := b.rewriteAll(ctx, f, rest, add)
	if err == nil || !repairable(err) {
		return err
	}
	plain := slices.DeleteFunc(slices.Clone(rest), func(a *hostport.Attachment) bool {
		return len(a.Options.Conditions(f)) > 0
	})
	if len(plain) == len(rest) {
		return err
	}
	if err := b.rewriteAll(ctx, f, plain, add); err != nil {
		return err
	}
	done := append(plain, add...)
	for _, a := range rest {
		if len(a.Options.Conditions(f)) == 0 {
			continue
		}
		s, err := changeScripts(f, hostport.Change{Add: []*hostport.Attachment{a}, Rest: those(done)})
		if err != nil {
			return err
		}
		switch err := b.restore(ctx, f, s.String()); {
		case err == nil:
			done = append(done, a)
		case !repairable(err):
			return err
		}
	}
	return nil
}

func (b *Backend) rewriteAll(ctx context.Context, f hostport.Family, rest, add []*hostport.Attachment) error {
	var after revision
	if b.memory != nil && (uses(f, rest) || uses(f, add)) {
		after = after.next(0)
	}
	var failed string
	var err error
	for range rewriteTries {
		there, readErr := b.save(ctx, f)
		if readErr != nil {
			return readErr
		}
		text := rewriteText(f, there, rest, add, after)
		if err != nil && text == failed {
			return err // nobody came between
		}
		if err = nil; text != "" {
			err = b.restore(ctx, f, text)
		}
		if err == nil {
			b.remember(f, after)
			return nil
		}
		if !repairable(err) {
			return err
		}
		failed = text
	}
	return err
}

// those are attachments as the rest of a change.
type those []*hostport.Attachment

func (t those) All() ([]*hostport.Attachment, error) { return t, nil }

func (t those) Uses(name string) (bool, error) {
	for _, a := range t {
		for _, f := range hostport.Families() {
			if slices.ContainsFunc(sharesOf(f, a), func(s share) bool { return s.name == name }) {
				return true, nil
			}
		}
	}
	return false, nil
}

// rewriteText is the input for iptables-restore that turns what is there in
// family f into the rules of exactly these attachments: "" if there is nothing
// to do. Rules of others are neither moved nor removed. Rules of rest that
// jump to a chain of others are left out while that chain is not there.
func rewriteText(f hostport.Family, there ruleset, rest, add []*hostport.Attachment, after revision) string {
	s := newScripts()
	atts := slices.Concat(rest, add)
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
	if after != (revision{}) {
		s.nat.declare = append(s.nat.declare, revisionChain)
		s.nat.put(after.rule())
	}
	for i, a := range atts {
		chain, rules := ownRules(f, a)
		if external := a.Options.ExternalSetMarkChain; external != "" && i < len(rest) && !there.of(natTable).has(external) {
			rules = slices.DeleteFunc(rules, func(r rule) bool { return target(r.spec) == external })
		}
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
		if ours(chain) || !plain(chain) {
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
