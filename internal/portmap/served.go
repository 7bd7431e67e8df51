package portmap

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Served is an attachment that portmap serves or served.
type Served struct {
	*hostport.Attachment
	// Cached reports whether libcni's cache has the attachment. If not, it is
	// known from rules alone: without interface, sandbox, pod and options, and on
	// nftables without the network.
	Cached bool
	// Portmap reports whether portmap was in the chain that is cached. A portmap
	// that libcni read from the network's own directory is not in the cache: such
	// an attachment has default options, and only rules tell whether portmap
	// served it.
	Portmap bool
	// Programmed reports whether the kernel has rules of portmap's for it.
	Programmed bool
	// Nerdctl reports whether nerdctl made the network.
	Nerdctl bool

	chain string // of iptables
}

// ruled are the attachments that rules tell of: one where both families, or both
// variants of iptables, do.
type ruled []*Served

// get returns a backend's attachment with that chain, or of that container where
// rules have no chain: a new one if there is none.
func (all *ruled) get(by, chain, containerID string) *Served {
	for _, s := range *all {
		if s.Backend == by && s.chain == chain && (chain != "" || s.ContainerID == containerID) {
			return s
		}
	}
	s := &Served{Attachment: &hostport.Attachment{Backend: by}, Programmed: true, chain: chain}
	s.ContainerID = containerID
	*all = append(*all, s)
	return s
}

// add adds what a rule does. On nftables a container in two networks has two
// addresses of a family.
func (s *Served) add(m hostport.Mapping, to netip.AddrPort) {
	if pod := netip.PrefixFrom(to.Addr(), to.Addr().BitLen()); !slices.Contains(s.Addresses, pod) {
		s.Addresses = append(s.Addresses, pod)
	}
	if !m.HostIP.IsValid() {
		m.HostIP = hostport.FamilyOf(to.Addr()).Unspecified()
	}
	m.ContainerPort = to.Port()
	s.Mappings = append(s.Mappings, m)
}

// mayBe reports whether rules of nftables, which have the container's ID alone,
// lead to one of a cached attachment's addresses, or nothing tells: runtimes attach
// a container's lo with the same mappings as its eth0.
func (s *Served) mayBe(c *Served) bool {
	return s.chain == "" && s.ContainerID == c.ContainerID &&
		(len(s.Addresses) == 0 || len(c.Addresses) == 0 || slices.ContainsFunc(s.Addresses, func(to netip.Prefix) bool {
			return slices.ContainsFunc(c.Addresses, func(p netip.Prefix) bool { return p.Addr() == to.Addr() })
		}))
}

// serve puts together what the cache and the rules tell. The cache is believed
// in all that it tells.
func serve(cache []*Served, rules ruled) []*Served {
	var out []*Served
	known := map[*Served]bool{}
	for _, c := range cache {
		for _, s := range rules {
			if s.chain == c.chain || s.mayBe(c) {
				known[s] = true
				c.Programmed = true
				c.Backend = cmp.Or(c.Backend, s.Backend)
			}
		}
		if c.Portmap || c.Programmed {
			out = append(out, c)
		}
	}
	for _, s := range rules {
		if !known[s] {
			s.Mappings = backend.JoinFamilies(s.Attachment, nil)
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b *Served) int {
		return cmp.Or(cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.IfName, b.IfName))
	})
	return out
}
