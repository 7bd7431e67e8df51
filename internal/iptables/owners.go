package iptables

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Owners reads the rules of either variant of iptables, of layout 1 and later. A
// pod whose clients are not masqueraded by subnet gets an address without its
// prefix length.
func (b *Backend) Owners(ctx context.Context) ([]*hostport.Attachment, error) {
	found := make(backend.Recovered)
	err := eachFamily(func(f hostport.Family) error {
		return b.saved(ctx, f, false, func(_ variant, there ruleset) { readOwners(found, f, there.of(natTable)) })
	})
	return found.All(backend.Iptables), err
}

// readOwners reads one family's chains.
func readOwners(found backend.Recovered, f hostport.Family, t *table) {
	// By own chain. Layout 1 had the conditions on the rules in range chains, and
	// mappings in the chain that these jump to.
	conditions := make(map[string][][]string)
	for _, chain := range t.chains {
		if !ours(chain) {
			continue
		}
		for _, spec := range t.rules[chain] {
			if x := ParseFields(spec); strings.HasPrefix(x.Target, conditionPrefix) || strings.HasPrefix(chain, conditionPrefix) {
				conditions[x.Target] = append(conditions[x.Target], x.Conditions())
			}
		}
	}
	for _, chain := range t.chains {
		if ours(chain) {
			readChain(found, f, t.rules[chain], merge(conditions[chain]))
		}
	}
}

// readChain reads the mappings in one chain, whose packets meet the conditions.
func readChain(found backend.Recovered, f hostport.Family, specs, conditions []string) {
	var marks []Fields // of the mapping that follows
	for _, spec := range specs {
		x := ParseFields(spec)
		switch {
		case x.Port == 0 || x.Protocol == "":
			marks = nil
		case x.Target == "DNAT":
			if a := readMapping(found, f, x); a != nil {
				readMarks(a, f, x, marks)
				if f == hostport.IPv4 {
					a.Options.ConditionsV4 = conditions
				} else {
					a.Options.ConditionsV6 = conditions
				}
			}
			marks = nil
		default:
			marks = append(marks, x)
		}
	}
}

// readMapping adds the mapping of a DNAT rule to its owner. It returns nil for a
// rule that has none, or that we do not write.
func readMapping(found backend.Recovered, f hostport.Family, x Fields) *hostport.Attachment {
	m := hostport.Mapping{HostIP: backend.Wildcard(f), HostPort: x.Port, Protocol: x.Protocol}
	if x.Destination.IsValid() {
		m.HostIP = x.Destination.Addr()
	}
	if hostport.FamilyOf(x.To.Addr()) != f || x.Destination.IsValid() && !x.Destination.IsSingleIP() {
		return nil
	}
	return found.Add(x.Comment, m, x.To)
}

// readMarks reads the masquerading options from the rules ahead of a mapping.
func readMarks(a *hostport.Attachment, f hostport.Family, dnat Fields, marks []Fields) {
	for _, m := range marks {
		if m.Protocol != dnat.Protocol || m.Port != dnat.Port || m.Destination != dnat.Destination || m.Target == "" {
			continue
		}
		if m.Target == "MARK" {
			bit, ok := m.MarkBit()
			if !ok {
				continue
			}
			a.Options.MarkMasqBit = bit
		} else if validateChain(m.Target) == nil {
			a.Options.ExternalSetMarkChain = m.Target
		} else {
			continue
		}
		a.Options.SNAT = true
		switch {
		case !m.Source.IsValid():
			a.Options.MasqueradeAll = true
		case !m.Source.Addr().IsLoopback():
			for i, p := range a.Addresses {
				if hostport.FamilyOf(p.Addr()) == f && m.Source.Contains(p.Addr()) {
					a.Addresses[i] = netip.PrefixFrom(p.Addr(), m.Source.Bits())
				}
			}
		}
	}
}

// merge turns alternatives back into one list of words, those that differ into
// a list of addresses. It is nil if none are valid.
func merge(conditions [][]string) []string {
	if len(conditions) == 0 {
		return nil
	}
	words := slices.Clone(conditions[0])
	for i := range words {
		values := []string{words[i]}
		for _, c := range conditions[1:] {
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
