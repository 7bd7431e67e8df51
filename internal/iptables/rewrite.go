package iptables

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Another program may commit between the read and the write of a rewrite.
const rewriteTries = 3

// Rewrite writes in one transaction a table, and then removes the rules of the
// other variant of iptables. Where that has no tools on the PATH, it logs a
// warning. Rules of other programs are neither moved nor removed. seen is always "".
func (b *Backend) Rewrite(ctx context.Context, all []*hostport.Attachment, fp hostport.Fingerprint) (seen string, err error) {
	return "", eachFamily(func(f hostport.Family) error {
		variants, err := b.variants(ctx, f, uses(f, all))
		for _, v := range variants {
			switch {
			case err != nil: // the rules in use are not in place
			case v.inUse():
				err = b.rewrite(ctx, v, all, fp.Of(f))
			default:
				err = b.clear(ctx, v)
			}
		}
		return err
	})
}

// clear removes what a variant that is not in use may hold.
func (b *Backend) clear(ctx context.Context, v variant) error {
	err := b.rewriteAll(ctx, v, nil, 0, true)
	if errors.Is(err, backend.ErrMissing) {
		b.log.Warn("rules of host ports may be left in the tables of the other variant of iptables, whose tools are not installed",
			"variant", v.name, "reason", err)
		return nil
	}
	return err
}

// rewrite reads one family and makes it hold the rules of exactly these
// attachments. Those whose conditions the kernel refuses, because they name
// something that is gone, are left out.
func (b *Backend) rewrite(ctx context.Context, v variant, all []*hostport.Attachment, fp uint64) error {
	err := b.rewriteAll(ctx, v, all, fp, true)
	conditional := slices.DeleteFunc(slices.Clone(all), func(a *hostport.Attachment) bool {
		return len(a.Options.Conditions(v.family)) == 0 || len(a.Forwards(v.family)) == 0
	})
	if err == nil || !refused(err) || len(conditional) == 0 {
		return err
	}
	if err := b.rewriteAll(ctx, v, all, fp, false); err != nil {
		return err
	}
	there, err := b.read(ctx, v, false)
	if err != nil {
		return err
	}
	for _, a := range conditional {
		s := newScripts()
		s.nat.fill(wantRules(v.family, a), a, there)
		switch err := b.restore(ctx, v.restore(), s.String(), b.wait); {
		case err == nil:
		case !refused(err):
			return err
		default:
			b.log.Warn("the kernel refuses the conditions of an attachment: its host ports are left out",
				"owner", a.Owner(), "family", v.family.String(), "reason", err)
		}
	}
	return nil
}

// fill puts an attachment's rules into its own chains. Those that jump to a
// chain of others are left out where that is not there.
func (s *script) fill(w wanted, a *hostport.Attachment, there ruleset) {
	external := a.Options.ExternalSetMarkChain
	gone := external != "" && !there.of(natTable).has(external)
	for _, ch := range w.chains {
		for _, spec := range ch.body {
			if ch.own && (!gone || target(spec) != external) {
				s.put(ch.name, spec)
			}
		}
	}
}

func (b *Backend) rewriteAll(ctx context.Context, v variant, all []*hostport.Attachment, fp uint64, conditions bool) error {
	var failed string
	var err error
	for range rewriteTries {
		there, readErr := b.read(ctx, v, false)
		if readErr != nil {
			return readErr
		}
		text := rewriteText(v.family, there, all, fp, conditions)
		if err != nil && text == failed {
			return err // no other program changed anything in between
		}
		if err = b.restore(ctx, v.restore(), text, b.wait); err == nil {
			b.warnExternal(v.family, there, all)
			return nil
		}
		if !refused(err) {
			return err
		}
		failed = text
	}
	return err
}

// warnExternal warns of attachments whose clients cannot be marked.
func (b *Backend) warnExternal(f hostport.Family, there ruleset, all []*hostport.Attachment) {
	for _, a := range all {
		external := a.Options.ExternalSetMarkChain
		if external != "" && len(a.Clients(f)) > 0 && uses(f, []*hostport.Attachment{a}) && !there.of(natTable).has(external) {
			b.log.Warn("the chain of externalSetMarkChain is gone: replies to some clients of an attachment will miss the node",
				"chain", external, "owner", a.Owner(), "family", f.String())
		}
	}
}

// rewriteText is the input for iptables-restore that turns what is there in
// family f into the rules of exactly these attachments, and the fingerprint into
// fp: "" if there is nothing to do. Without conditions, the chains of those that
// have some are left empty.
func rewriteText(f hostport.Family, there ruleset, all []*hostport.Attachment, fp uint64, conditions bool) string {
	s := newScripts()
	jumps := make(map[string][]rule) // by table, those in chains of others
	wanted := make(map[place]bool)
	for _, a := range all {
		w := wantRules(f, a)
		for _, ch := range w.chains {
			if wanted[ch.place] {
				continue
			}
			wanted[ch.place] = true
			t := s.of(ch.table)
			if there.of(ch.table).has(ch.name) {
				t.flush = append(t.flush, ch.name)
			} else {
				t.create = append(t.create, ch.name)
			}
			if !ch.own {
				t.put(ch.name, ch.body...)
			}
			for _, j := range ch.jumps {
				if ours(j.chain) {
					t.add = append(t.add, j)
				} else {
					jumps[ch.table] = append(jumps[ch.table], j)
				}
			}
		}
		for _, g := range w.ports {
			for _, r := range g {
				s.nat.put(r.chain, r.spec)
			}
		}
		if conditions || len(a.Options.Conditions(f)) == 0 {
			s.nat.fill(w, a, there)
		}
	}
	if fp != 0 {
		chain := fingerprintChain(fp)
		wanted[place{natTable, chain}] = true
		if !there.of(natTable).has(chain) {
			s.nat.create = append(s.nat.create, chain)
		}
	}
	for _, name := range []string{rawTable, natTable} {
		t, there := s.of(name), there.of(name)
		for _, c := range there.chains {
			if ours(c) && !wanted[place{name, c}] {
				t.drop = append(t.drop, c)
			}
		}
		placeJumps(t, there, jumps[name])
	}
	return s.String()
}

// placeJumps puts each jump once and in its place into the chains of others,
// and removes every other jump to a chain of ours from them.
func placeJumps(s *script, there *table, jumps []rule) {
	for _, chain := range there.chains {
		if ours(chain) {
			continue
		}
		rules := there.rules[chain]
		for i, spec := range rules {
			// Most rules of a node are other programs': tell them apart cheaply.
			if strings.Contains(spec, prefix) && ours(target(spec)) && !slices.ContainsFunc(jumps, func(j rule) bool {
				return j.chain == chain && inPlace(j, rules) == i
			}) {
				s.remove = append(s.remove, rule{chain: chain, spec: spec})
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
func inPlace(j rule, rules []string) int {
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

// refused reports whether the tool itself failed, and not that it is missing,
// got no lock, did not answer, or that the kernel has no table raw.
func refused(err error) bool {
	return !errors.Is(err, backend.ErrMissing) && !errors.Is(err, backend.ErrBusy) &&
		!errors.Is(err, backend.ErrNoGuard) && !killed(err)
}

// killed reports whether the tool did not get to its end.
func killed(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}
