package nftables

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Owners reads the table, of layout 1 and later: mappings and pod addresses from the maps,
// the prefix length and the masqueraded clients from the sets of clients, conditions from
// the comments of their rules. Without masquerading, a pod's address has no prefix length.
func (b *Backend) Owners(ctx context.Context) ([]*hostport.Attachment, error) {
	have, err := b.read(ctx, nil)
	return ownersIn(have), err
}

func ownersIn(have []object) []*hostport.Attachment {
	elements, found := only[element](have), make(backend.Recovered)
	for _, e := range elements {
		if m, ok := e.hostSide(); ok && strings.HasPrefix(e.set, toPod) {
			found.Add(e.comment, m, e.to())
		}
	}
	rules := make(map[string][]rule)
	for _, c := range only[chain](have) {
		rules[c.name] = c.rules
	}
	pods := make(map[netip.Addr][]*hostport.Attachment)
	for _, a := range found {
		for _, p := range a.Addresses {
			pods[p.Addr()] = append(pods[p.Addr()], a)
		}
	}
	for _, e := range elements {
		network, pod, _ := e.client()
		for _, a := range pods[pod] {
			readClient(a, network, pod, e.comment)
		}
		if a := found[e.owner()]; a != nil && e.jump != "" {
			readConditions(a, e, rules[strings.TrimPrefix(e.jump, "goto ")])
		}
	}
	return found.All(backend.Nftables)
}

// readClient reads which clients of a pod are masqueraded. From the comment it reads
// network and pod: it does not begin with the container ID, so they are not cut off.
func readClient(a *hostport.Attachment, network netip.Prefix, pod netip.Addr, comment string) {
	a.Options.SNAT = true
	a.Options.MasqueradeAll = a.Options.MasqueradeAll || network.Bits() == 0
	for i, p := range a.Addresses {
		if p.Addr() == pod && network.Bits() > 0 && network.Contains(pod) {
			a.Addresses[i] = netip.PrefixFrom(pod, network.Bits())
		}
	}
	const anyOwner = "id if 0 "
	if whole, ok := hostport.ParseTag(anyOwner + comment); ok {
		a.Network, a.Pod = whole.Network, whole.Pod
	}
}

// readConditions reads the conditions of one family, one to a string, from the chain
// to which an element leads.
func readConditions(a *hostport.Attachment, e element, rules []rule) {
	texts := &a.Options.ConditionsV4
	if m, _ := e.hostSide(); m.HostIP.Is6() {
		texts = &a.Options.ConditionsV6
	}
	for _, r := range rules {
		if r.comment != "" && !slices.Contains(*texts, r.comment) {
			*texts = append(*texts, r.comment)
		}
	}
}

// Connections reads the counters of the elements that lead to pods: nat chains
// see only the first packet of a connection.
func (b *Backend) Connections(ctx context.Context) (backend.Connections, error) {
	have, err := b.read(ctx, func(set string) bool { return strings.HasPrefix(set, toPod) })
	all := make(backend.Connections)
	for _, e := range only[element](have) {
		m, ok := e.hostSide()
		if owner := e.owner(); ok && owner != (hostport.Key{}) {
			all[backend.HostSide{Owner: owner, Mapping: m}] += e.packets
		}
	}
	return all, err
}
