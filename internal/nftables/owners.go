package nftables

import (
	"context"
	"maps"
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
	have, err := b.snapshot(ctx)
	found := make(backend.Recovered)
	for _, name := range []string{mapV4HostIP, mapV4, mapV6HostIP, mapV6} {
		for _, key := range slices.Sorted(maps.Keys(have.elements[name])) {
			e := have.elements[name][key]
			if m, ok := e.hostSide(); ok {
				found.Add(e.comment, m, e.to())
			}
		}
	}
	have.readClients(found)
	have.readConditions(found)
	return found.All(backend.Nftables), err
}

// readClients reads who is masqueraded on the way to each pod.
func (s snapshot) readClients(found backend.Recovered) {
	type address struct {
		*hostport.Attachment
		*netip.Prefix
	}
	pods := make(map[netip.Addr][]address)
	for _, a := range found {
		for i, p := range a.Addresses {
			pods[p.Addr()] = append(pods[p.Addr()], address{a, &a.Addresses[i]})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.elements)) {
		set, ok := parseClientSet(name)
		if !ok {
			continue
		}
		for _, e := range s.elements[name] {
			network, pod, _ := e.client(set)
			for _, a := range pods[pod] {
				a.Options.SNAT = true
				a.Options.MasqueradeAll = a.Options.MasqueradeAll || network.Bits() == 0
				if network.Bits() > 0 && network.Contains(pod) {
					*a.Prefix = netip.PrefixFrom(pod, network.Bits())
				}
				nameOwner(a.Attachment, e.comment)
			}
		}
	}
}

// nameOwner takes network and pod from the comment that does not begin with the
// container ID, and so is not cut before them.
func nameOwner(a *hostport.Attachment, podTag string) {
	const anyOwner = "id if 0 "
	if whole, ok := hostport.ParseTag(anyOwner + podTag); ok {
		a.Network, a.Pod = whole.Network, whole.Pod
	}
}

// readConditions reads the conditions of each family, one to a string, from the
// chains that the maps of conditions lead to.
func (s snapshot) readConditions(found backend.Recovered) {
	read := func(into func(*hostport.Attachment) *[]string, names ...string) {
		for _, name := range names {
			for _, e := range s.elements[name] {
				a := found[e.owner()]
				if a == nil || len(*into(a)) > 0 {
					continue
				}
				for _, r := range s.rules[e.jump] {
					if texts := into(a); r.comment != "" && !slices.Contains(*texts, r.comment) {
						*texts = append(*texts, r.comment)
					}
				}
			}
		}
	}
	read(func(a *hostport.Attachment) *[]string { return &a.Options.ConditionsV4 },
		mapCond4, mapCond4HostIP, mapOnly4, mapOnly4HostIP)
	read(func(a *hostport.Attachment) *[]string { return &a.Options.ConditionsV6 },
		mapCond6, mapCond6HostIP, mapOnly6, mapOnly6HostIP)
}
