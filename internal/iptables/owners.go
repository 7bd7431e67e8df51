package iptables

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Owners reads the rules of both variants, of layout 1 and later. A pod whose clients are
// not masqueraded by subnet gets an address without its prefix length. Rules of a variant
// that is not in use and has no tools are no error: otherwise each call would try again.
func (b *Backend) Owners(ctx context.Context) ([]*hostport.Attachment, error) {
	found := make(backend.Recovered)
	_, err := b.saved(ctx, nil, false, func(v variant, there *ruleset) { readOwners(found, v.family, there) })
	return found.All(backend.Iptables), err
}

func readOwners(found backend.Recovered, f hostport.Family, there *ruleset) {
	rules := make(map[chainID][]Fields)
	// Keyed by own chain. Layout 1 had the conditions on the rules in range chains,
	// and the mappings in the chain that these jump to.
	conditions := make(map[string][][]string)
	for _, p := range there.chains {
		if ours(p.name) {
			rules[p] = fieldsOf(there.rules[p])
		}
		for _, x := range rules[p] {
			if strings.HasPrefix(x.Target, conditionPrefix) || strings.HasPrefix(p.name, conditionPrefix) {
				conditions[x.Target] = append(conditions[x.Target], x.Conditions)
			}
		}
	}
	for _, p := range there.chains {
		words := merge(conditions[p.name])
		var marks []Fields // of the mapping that follows
		for _, x := range rules[p] {
			if x.Target != "DNAT" {
				marks = append(marks, x)
				continue
			}
			if a := readMapping(found, f, x); a != nil {
				readMarks(a, x, marks)
				if f == hostport.IPv4 {
					a.Options.ConditionsV4 = words
				} else {
					a.Options.ConditionsV6 = words
				}
			}
			marks = nil
		}
	}
}

// readMapping adds the mapping of a DNAT rule to its owner. It returns nil for a
// rule without a mapping, or that we do not write.
func readMapping(found backend.Recovered, f hostport.Family, x Fields) *hostport.Attachment {
	if x.Port == 0 || x.Protocol == "" || hostport.FamilyOf(x.To.Addr()) != f || x.Destination.IsValid() && !x.Destination.IsSingleIP() {
		return nil
	}
	return found.Add(x.Comment, hostSide(f, x), x.To)
}

func hostSide(f hostport.Family, x Fields) hostport.Mapping {
	return hostport.Mapping{HostIP: x.Destination.Addr(), HostPort: x.Port, Protocol: x.Protocol}.Side(f)
}

// readMarks reads the masquerading options from the rules before a mapping.
func readMarks(a *hostport.Attachment, dnat Fields, marks []Fields) {
	for _, m := range marks {
		switch bit, ok := m.markBit(); {
		case m.Protocol != dnat.Protocol || m.Port != dnat.Port || m.Destination != dnat.Destination:
			continue
		case m.Target == "MARK" && ok:
			a.Options.MarkMasqBit = bit
		case validateChain(m.Target) == nil:
			a.Options.ExternalSetMarkChain = m.Target
		default:
			continue
		}
		a.Options.SNAT = true
		a.Options.MasqueradeAll = a.Options.MasqueradeAll || !m.Source.IsValid()
		for i, p := range a.Addresses {
			if m.Source.Contains(p.Addr()) {
				a.Addresses[i] = netip.PrefixFrom(p.Addr(), m.Source.Bits())
			}
		}
	}
}

// merge turns alternatives back into one list of words, and words that differ
// into a list of addresses. It returns nil if none are valid.
func merge(conditions [][]string) []string {
	if len(conditions) == 0 {
		return nil
	}
	words := slices.Clone(conditions[0])
	for i := range words {
		var values []string
		for _, c := range conditions {
			if len(c) != len(words) {
				return nil
			}
			if !slices.Contains(values, c[i]) {
				values = append(values, c[i])
			}
		}
		words[i] = strings.Join(values, ",")
	}
	if validateConditions(words) != nil {
		return nil
	}
	return words
}

// Connections reads the counters of the DNAT rules: table nat sees only the first
// packet of a connection.
func (b *Backend) Connections(ctx context.Context) (backend.Connections, error) {
	all := make(backend.Connections)
	_, err := b.saved(ctx, nil, true, func(v variant, there *ruleset) { count(all, v.family, there) })
	return all, err
}

// count adds the counters of the rules of one family.
func count(all backend.Connections, f hostport.Family, there *ruleset) {
	for _, p := range there.chains {
		if !ours(p.name) {
			continue
		}
		for _, x := range fieldsOf(there.rules[p]) {
			if owner, ok := hostport.ParseTag(x.Comment); ok && x.Target == "DNAT" {
				all[backend.HostSide{Owner: owner.Key, Mapping: hostSide(f, x)}] += x.Packets
			}
		}
	}
}
