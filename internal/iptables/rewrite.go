package iptables

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Rewrite writes in one transaction a table, and then removes the rules of the
// other variant of iptables. If that has no tools on the PATH, it logs a warning.
// Rules of other programs are neither moved nor removed. seen is always "".
func (b *Backend) Rewrite(ctx context.Context, all []*hostport.Attachment, fp hostport.Fingerprint, except ...hostport.Family) (seen string, was []*hostport.Attachment, err error) {
	found := make(backend.Recovered)
	err = eachFamily(func(f hostport.Family) error {
		if slices.Contains(except, f) {
			return nil
		}
		variants, err := b.variants(ctx, f, uses(f, all))
		if err != nil || len(variants) == 0 {
			return err
		}
		unlock, err := b.lock(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		for _, v := range variants {
			err := b.rewrite(ctx, v, v.want(all, fp), found)
			if errors.Is(err, backend.ErrMissing) && !v.inUse() {
				b.Log.Warn("rules of host ports may be left in the tables of the other variant of iptables, whose tools are not installed",
					"variant", v.name, "reason", err)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return "", found.All(backend.Iptables), err
}

// rewrite makes one family hold these rules, and adds the owners of the rules that
// were there to found. Attachments whose conditions the kernel refuses, because they
// name something that is gone, are left out.
func (b *Backend) rewrite(ctx context.Context, v variant, want *wanted, found backend.Recovered) error {
	err := b.write(ctx, v, want, found)
	if !refused(err) {
		return err
	}
	var conditional []group
	for _, ch := range want.chains {
		if ch.owner != nil && len(ch.owner.Options.Conditions(v.family)) > 0 {
			conditional = append(conditional, ch.group)
			ch.specs = nil
		}
	}
	if len(conditional) == 0 {
		return err
	}
	if err := b.write(ctx, v, want, found); err != nil {
		return err
	}
	for own := range slices.Chunk(conditional, 2) { // see attach
		s := make(script)
		for _, g := range own {
			s.rules(adding, "-A", g.chainID, g.specs...)
		}
		switch err := b.restore(ctx, v.restore(), s.String(), b.Wait); {
		case refused(err):
			b.Log.Warn("the kernel refuses the conditions of an attachment: its host ports are left out",
				"owner", own[0].owner.Owner(), "family", v.family.String(), "reason", err)
		case err != nil:
			return err
		}
	}
	return nil
}

// write reads one family and makes it hold these rules of ours and no others. It drops
// the rules from want that jump to a missing externalSetMarkChain.
func (b *Backend) write(ctx context.Context, v variant, want *wanted, found backend.Recovered) (err error) {
	for range 3 { // another program may commit between the read and the write
		there, readErr := b.read(ctx, v, false)
		if readErr != nil {
			return readErr
		}
		readOwners(found, v.family, there)
		for _, ch := range want.chains {
			if ch.owner == nil {
				continue
			}
			to := ch.owner.Options.ExternalSetMarkChain
			dangles := func(spec string) bool { return to != "" && target(spec) == to && !there.has(inNat(to)) }
			if slices.ContainsFunc(ch.specs, dangles) {
				ch.specs = slices.DeleteFunc(ch.specs, dangles)
				b.Log.Warn("the chain of externalSetMarkChain is gone: replies to some clients of an attachment will miss the node",
					"chain", to, "owner", ch.owner.Owner(), "family", v.family.String())
			}
		}
		if err = b.restore(ctx, v.restore(), rewriteText(there, want), b.Wait); !refused(err) {
			return err
		}
	}
	return err
}

// rewriteText returns the input for iptables-restore that turns there into want, "" if
// there is nothing to do.
func rewriteText(there *ruleset, want *wanted) string {
	s := make(script)
	kept := make(map[rule]bool) // jumps in other programs' chains
	for _, ch := range want.chains {
		if there.has(ch.chainID) {
			s.line(flushing, ch.table, "-F", ch.name)
		} else {
			s.line(creating, ch.table, "-N", ch.name)
		}
		s.rules(adding, "-A", ch.chainID, ch.specs...)
		for _, j := range ch.jumps {
			if kept[j] = !ours(j.name) && ch.inPlace(j, there); !kept[j] {
				s.rules(adding, ch.verb, j.chainID, j.spec)
			}
		}
	}
	for _, g := range want.ports {
		s.rules(adding, "-A", g.chainID, g.specs...)
	}
	for _, p := range there.chains {
		if ours(p.name) && want.at[p] == nil {
			s.drop(p)
		}
		for _, spec := range there.rules[p] {
			if !ours(p.name) && leadsToUs(spec) && !kept[rule{p, spec}] {
				s.rules(removing, "-D", p, spec)
			}
		}
	}
	return s.String()
}

// leadsToUs reports whether a rule jumps to a chain of ours. Most rules of a node
// belong to other programs, and are recognised cheaply.
func leadsToUs(spec string) bool { return strings.Contains(spec, prefix) && ours(target(spec)) }

// inPlace reports whether a jump to ch is in its chain exactly once and where it
// belongs: at the head, or after kube-proxy's jump. Such a jump is kept: other
// programs' rules after it would come first if it was recreated.
func (ch *chain) inPlace(j rule, there *ruleset) bool {
	rules := there.rules[j.chainID]
	i := slices.Index(rules, j.spec)
	if i < 0 || slices.Contains(rules[i+1:], j.spec) {
		return false
	}
	if ch.verb == "-I" {
		return i == 0
	}
	return !slices.ContainsFunc(rules[i:], func(spec string) bool { return target(spec) == servicesChain })
}

// refused reports whether the tool itself failed, not because it is missing, got
// no lock, or did not answer, or because the kernel has no table raw.
func refused(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && !errors.Is(err, backend.ErrNoGuard)
}
