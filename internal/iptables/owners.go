package iptables

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Owners reads attachments back from the comments and rules in the kernel, of
// either variant of iptables and of layout 1 and later: identity, mappings, pod
// addresses and options. A pod whose clients are not masqueraded by subnet gets
// an address without its prefix length. With an error, some rules could not be
// read.
func (b *Backend) Owners(ctx context.Context) ([]*hostport.Attachment, error) {
	found := recovery{byKey: make(map[hostport.Key]*hostport.Attachment)}
	_, err := eachFamily(func(f hostport.Family) ([]*hostport.Attachment, error) {
		variants, err := b.variants(ctx, f, false)
		errs := []error{err}
		for _, v := range variants {
			there, err := b.save(ctx, v)
			if err != nil {
				errs = append(errs, unreadable(v, err))
				continue
			}
			found.family(f, there.of(natTable))
		}
		return nil, errors.Join(errs...)
	})
	return found.attachments(), err
}

// recovery collects attachments from the families.
type recovery struct {
	byKey map[hostport.Key]*hostport.Attachment
	order []*hostport.Attachment
}

// family reads one family's chains.
func (r *recovery) family(f hostport.Family, t *table) {
	// By own chain. Layout 1 had the conditions on the rules in range chains, and
	// mappings in the chain that these jump to.
	conditions := make(map[string][][]string)
	for _, chain := range t.chains {
		if !ours(chain) {
			continue
		}
		for _, spec := range t.rules[chain] {
			x, err := ParseFields(spec)
			if err == nil && (strings.HasPrefix(x.Target, conditionPrefix) || strings.HasPrefix(chain, conditionPrefix)) {
				conditions[x.Target] = append(conditions[x.Target], x.Conditions())
			}
		}
	}
	for _, chain := range t.chains {
		if ours(chain) {
			r.chain(f, t.rules[chain], conditions[chain])
		}
	}
}

// chain reads the mappings in one chain.
func (r *recovery) chain(f hostport.Family, specs []string, conditions [][]string) {
	var marks []Fields // of the mapping that follows
	for _, spec := range specs {
		x, err := ParseFields(spec)
		switch {
		case err != nil || x.Port == 0 || x.Protocol == "":
			marks = nil
		case x.Target == "DNAT":
			if a := r.mapping(f, x); a != nil {
				readMarks(a, f, x, marks)
				if c := merge(conditions); f == hostport.IPv4 {
					a.Options.ConditionsV4 = c
				} else {
					a.Options.ConditionsV6 = c
				}
			}
			marks = nil
		default:
			marks = append(marks, x)
		}
	}
}

// mapping adds the mapping of a DNAT rule to its owner. It returns nil for a rule
// that has no owner.
func (r *recovery) mapping(f hostport.Family, x Fields) *hostport.Attachment {
	tag, ok := hostport.ParseTag(x.Comment)
	if !ok {
		return nil
	}
	to := x.To
	if !to.IsValid() || to.Port() == 0 || hostport.FamilyOf(to.Addr()) != f || to.Addr().IsUnspecified() {
		return nil
	}
	a := r.byKey[tag.Key]
	if a == nil {
		a = &tag
		a.Backend = backend.Iptables
		r.byKey[a.Key] = a
		r.order = append(r.order, a)
	}
	if pod, ok := a.Address(f); !ok {
		a.Addresses = append(a.Addresses, netip.PrefixFrom(to.Addr(), to.Addr().BitLen()))
	} else if pod.Addr() != to.Addr() {
		return nil // an attachment has one address of a family: the first rule wins
	}
	m := hostport.Mapping{HostPort: x.Port, ContainerPort: to.Port(), Protocol: x.Protocol}
	switch {
	case !x.Destination.IsValid():
		m.HostIP = unspecified(f)
	case x.Destination.IsSingleIP():
		m.HostIP = x.Destination.Addr()
	default:
		return nil
	}
	a.Mappings = append(a.Mappings, m)
	return a
}

func unspecified(f hostport.Family) netip.Addr {
	if f == hostport.IPv4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
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

// attachments returns those found, each mapping once: one that both families have
// is for every address of the node.
func (r *recovery) attachments() []*hostport.Attachment {
	for _, a := range r.order {
		a.Mappings = joinFamilies(a)
	}
	return r.order
}

func joinFamilies(a *hostport.Attachment) []hostport.Mapping {
	_, has4 := a.Address(hostport.IPv4)
	_, has6 := a.Address(hostport.IPv6)
	var out []hostport.Mapping
	for _, m := range a.Mappings {
		if m.HostIP.IsUnspecified() {
			other := m
			other.HostIP = unspecified(hostport.IPv4 + hostport.IPv6 - hostport.FamilyOf(m.HostIP))
			if !(has4 && has6) || slices.Contains(a.Mappings, other) {
				m.HostIP = netip.Addr{}
			}
		}
		if !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}
