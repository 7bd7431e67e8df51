package nftables

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Owners reads the table, of layout 1 and later: mappings and pod addresses from
// the maps, the prefix length and who is masqueraded from the sets of clients,
// conditions from the comments of their rules. Without masquerading, a pod gets an
// address without its prefix length.
func (b *Backend) Owners(ctx context.Context) ([]*hostport.Attachment, error) {
	have, err := b.read(ctx, anySet)
	elements, found := only[element](have), make(backend.Recovered)
	slices.SortFunc(elements, func(x, y element) int { return cmp.Compare(x.key, y.key) })
	for _, f := range hostport.Families() {
		for _, hostIP := range []bool{true, false} {
			for _, e := range elements {
				if m, ok := e.hostSide(); ok && e.set == mapName(toPod, f, hostIP) {
					found.Add(e.comment, m, e.to())
				}
			}
		}
	}
	readClients(elements, found)
	readConditions(elements, only[chain](have), found)
	return found.All(backend.Nftables), err
}

// readClients reads who is masqueraded on the way to each pod, and from the
// comments, which do not begin with the container ID and so are not cut before
// them, network and pod.
func readClients(elements []element, found backend.Recovered) {
	pods := make(map[netip.Addr][]*hostport.Attachment)
	for _, a := range found {
		for _, p := range a.Addresses {
			pods[p.Addr()] = append(pods[p.Addr()], a)
		}
	}
	for _, e := range elements {
		network, pod, _ := e.client()
		for _, a := range pods[pod] {
			a.Options.SNAT = true
			a.Options.MasqueradeAll = a.Options.MasqueradeAll || network.Bits() == 0
			for i, p := range a.Addresses {
				if p.Addr() == pod && network.Bits() > 0 && network.Contains(pod) {
					a.Addresses[i] = netip.PrefixFrom(pod, network.Bits())
				}
			}
			const anyOwner = "id if 0 "
			if whole, ok := hostport.ParseTag(anyOwner + e.comment); ok {
				a.Network, a.Pod = whole.Network, whole.Pod
			}
		}
	}
}

// readConditions reads the conditions of each family, one to a string, from the
// chains that the maps of conditions lead to.
func readConditions(elements []element, chains []chain, found backend.Recovered) {
	rules := make(map[string][]rule)
	for _, c := range chains {
		rules[c.name] = c.rules
	}
	for _, e := range elements {
		a := found[e.owner()]
		if a == nil || e.jump == "" {
			continue
		}
		texts := &a.Options.ConditionsV4
		if m, _ := e.hostSide(); m.HostIP.Is6() {
			texts = &a.Options.ConditionsV6
		}
		if len(*texts) > 0 {
			continue // an element before this one led to the same chain
		}
		for _, r := range rules[e.jump] {
			if r.comment != "" && !slices.Contains(*texts, r.comment) {
				*texts = append(*texts, r.comment)
			}
		}
	}
}
