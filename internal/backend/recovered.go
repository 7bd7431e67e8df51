package backend

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Recovered are the attachments that are read back from a backend's rules.
type Recovered map[hostport.Key]*hostport.Attachment

// Add adds a mapping to the attachment that a rule's comment names, and returns the
// attachment. The host IP is explicit, 0.0.0.0 or :: for every address, because a rule has
// one family. Add returns nil for a rule that names no owner, has no destination, or has
// another destination address than the attachment's earlier rules of that family.
func (r Recovered) Add(comment string, m hostport.Mapping, to netip.AddrPort) *hostport.Attachment {
	owner, ok := hostport.ParseTag(comment)
	if !ok || !to.IsValid() || to.Port() == 0 || to.Addr().IsUnspecified() {
		return nil
	}
	a := r[owner.Key]
	if a == nil {
		a = &owner
		r[a.Key] = a
	}
	if pod, ok := a.Address(hostport.FamilyOf(to.Addr())); !ok {
		a.Addresses = append(a.Addresses, netip.PrefixFrom(to.Addr(), to.Addr().BitLen()))
	} else if pod.Addr() != to.Addr() {
		return nil
	}
	m.ContainerPort = to.Port()
	a.Mappings = append(a.Mappings, m)
	return a
}

// All returns the attachments, each mapping once, ordered by key.
func (r Recovered) All(backend string) []*hostport.Attachment {
	held := make(map[hostport.Mapping]bool)
	for _, a := range r {
		for _, m := range a.Mappings {
			m.ContainerPort = 0
			held[m] = true
		}
	}
	for _, a := range r {
		a.Backend = backend
		a.Mappings = JoinFamilies(a, held)
	}
	return slices.SortedFunc(maps.Values(r), func(x, y *hostport.Attachment) int {
		return cmp.Compare(x.Key.String(), y.Key.String())
	})
}

// JoinFamilies returns the mappings of a, in which those for 0.0.0.0 and :: that differ
// only in that are joined into one for both families. For a pod with addresses of one
// family, a single one is joined as well, unless an attachment holds its counterpart of
// the other family: held has their mappings without container port.
func JoinFamilies(a *hostport.Attachment, held map[hostport.Mapping]bool) (out []hostport.Mapping) {
	all, done := make(map[hostport.Mapping]bool), make(map[hostport.Mapping]bool)
	for _, m := range a.Mappings {
		all[m] = true
	}
	for _, m := range a.Mappings {
		if m.Wildcard() {
			f := hostport.IPv4 + hostport.IPv6 - hostport.FamilyOf(m.HostIP)
			other := m
			other.HostIP = f.Unspecified()
			both := all[other]
			other.ContainerPort = 0
			if _, dual := a.Address(f); both || !dual && !held[other] {
				m.HostIP = netip.Addr{}
			}
		}
		if !done[m] {
			out, done[m] = append(out, m), true
		}
	}
	return out
}
