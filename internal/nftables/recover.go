package nftables

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// backendName is the value of Attachment.Backend that stands for this one.
const backendName = "nftables"

// Recover reads the attachments back from the table: owners from the comments,
// mappings and pod addresses from the maps, the prefix length and who is
// masqueraded from the sets of clients, conditions from the comments of their
// rules. Without masquerading the prefix length is not in the kernel and is
// given as that of one host. The sandbox's path and the time are not there
// either. Elements that name no owner are not ours and are left out.
func (b *Backend) Recover(ctx context.Context) ([]*hostport.Attachment, error) {
	have, err := b.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	found := make(map[hostport.Key]*hostport.Attachment)
	for _, name := range []string{mapV4HostIP, mapV4, mapV6HostIP, mapV6} {
		for _, key := range slices.Sorted(maps.Keys(have.elements[name])) {
			have.recoverMapping(found, have.elements[name][key])
		}
	}
	out := slices.SortedFunc(maps.Values(found), func(x, y *hostport.Attachment) int {
		return cmp.Compare(x.Key.String(), y.Key.String())
	})
	for _, a := range out {
		a.Mappings = have.joinFamilies(a)
		have.recoverClients(a)
		have.recoverConditions(a)
	}
	return out, nil
}

// recoverMapping adds one element to its owner. The wildcard is that of the
// family until joinFamilies.
func (s snapshot) recoverMapping(found map[hostport.Key]*hostport.Attachment, e element) {
	owner, ok := hostport.ParseTag(e.comment)
	if !ok {
		return
	}
	m, ok := e.hostSide()
	to := e.to()
	if !ok || !to.IsValid() {
		return
	}
	a := found[owner.Key]
	if a == nil {
		a = &owner
		a.Backend = backendName
		found[a.Key] = a
	}
	if _, ok := a.Address(hostport.FamilyOf(to.Addr())); !ok {
		a.Addresses = append(a.Addresses, netip.PrefixFrom(to.Addr(), to.Addr().BitLen()))
	}
	m.ContainerPort = to.Port()
	a.Mappings = append(a.Mappings, m)
}

// joinFamilies makes one mapping of the two halves of a wildcard for both
// families. For a pod of one family the other half stands for itself, unless
// somebody else holds the port there.
func (s snapshot) joinFamilies(a *hostport.Attachment) []hostport.Mapping {
	var out []hostport.Mapping
	_, has4 := a.Address(hostport.IPv4)
	_, has6 := a.Address(hostport.IPv6)
	mapped := make(map[hostport.Mapping]bool, len(a.Mappings))
	for _, m := range a.Mappings {
		mapped[m] = true
	}
	for _, m := range a.Mappings {
		if !m.Wildcard() {
			out = append(out, m)
			continue
		}
		other := m
		other.HostIP = netip.IPv4Unspecified()
		if m.HostIP.Is4() {
			other.HostIP = netip.IPv6Unspecified()
		}
		both := mapped[other]
		if both && m.HostIP.Is6() {
			continue // joined to the IPv4 half
		}
		if both || !(has4 && has6) && !s.holds(other) {
			m.HostIP = netip.Addr{}
		}
		out = append(out, m)
	}
	return out
}

// holds reports whether the wildcard mapping's port is taken in its family.
func (s snapshot) holds(m hostport.Mapping) bool {
	wildcard, _ := forwardMaps(hostport.FamilyOf(m.HostIP))
	_, ok := s.elements[wildcard][hostKey(hostport.Forward{Protocol: m.Protocol, HostPort: m.HostPort})]
	return ok
}

// recoverClients reads who is masqueraded on the way to the pod.
func (s snapshot) recoverClients(a *hostport.Attachment) {
	for i, addr := range a.Addresses {
		f := hostport.FamilyOf(addr.Addr())
		for _, c := range clientSets() {
			if c.family != f || len(s.elements[c.name()]) == 0 {
				continue
			}
			for _, e := range s.elements[c.name()] {
				client, pod, ok := e.client(c)
				if !ok || pod != addr.Addr() {
					continue
				}
				a.Options.SNAT = true
				a.Options.MasqueradeAll = a.Options.MasqueradeAll || c.bits == 0
				if c.bits > 0 && client.Contains(pod) {
					a.Addresses[i] = netip.PrefixFrom(pod, c.bits)
				}
				nameOwner(a, e.comment)
			}
		}
	}
}

// nameOwner takes network and pod from the comment that has room for them.
func nameOwner(a *hostport.Attachment, podTag string) {
	const anyOwner = "id if 0 "
	if whole, ok := hostport.ParseTag(anyOwner + podTag); ok {
		a.Network, a.Pod = whole.Network, whole.Pod
	}
}

// recoverConditions reads the conditions of each family, one to a string.
func (s snapshot) recoverConditions(a *hostport.Attachment) {
	read := func(f hostport.Family) []string {
		var texts []string
		for _, r := range s.rules[onlyChain(a.Key, f)] {
			if !slices.Contains(texts, r.comment) {
				texts = append(texts, r.comment)
			}
		}
		return texts
	}
	a.Options.ConditionsV4 = read(hostport.IPv4)
	a.Options.ConditionsV6 = read(hostport.IPv6)
}
