package portmap

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Served is an attachment that portmap serves or served.
type Served struct {
	*hostport.Attachment
	// Cached reports whether libcni's cache has the attachment; the cache takes
	// precedence. If not, it is known only from rules: without interface, sandbox,
	// pod and options, and on nftables without the network.
	Cached bool
	// Portmap reports whether the cached chain has portmap. A portmap that libcni
	// read from the network's own directory is not in the cache: such an
	// attachment has default options, and only rules show whether portmap served
	// it.
	Portmap bool
	// Programmed reports whether the kernel has portmap's rules for it.
	Programmed bool
	// Nerdctl reports whether nerdctl made the network.
	Nerdctl bool

	chain string // of iptables
}

// programmed marks the attachments for which is returns true as programmed on a
// backend, and returns the first: a new one if there is none. Two interfaces of
// a container in one network share a chain of iptables.
func (f *Found) programmed(by string, is func(*Served) bool) (first *Served) {
	for _, s := range f.Served {
		if is(s) {
			s.Programmed = true
			s.Backend = cmp.Or(s.Backend, by)
			first = cmp.Or(first, s)
		}
	}
	if first == nil {
		first = &Served{Attachment: &hostport.Attachment{Backend: by}, Programmed: true}
		f.Served = append(f.Served, first)
	}
	return first
}

// add adds the mapping and address of a rule, unless they are known from the
// cache. On nftables a container in two networks has two addresses of a family.
func (s *Served) add(m hostport.Mapping, to netip.AddrPort) {
	if s.Cached {
		return
	}
	if !s.has(to.Addr()) {
		s.Addresses = append(s.Addresses, netip.PrefixFrom(to.Addr(), to.Addr().BitLen()))
	}
	if !m.HostIP.IsValid() {
		m.HostIP = hostport.FamilyOf(to.Addr()).Unspecified()
	}
	m.ContainerPort = to.Port()
	s.Mappings = append(s.Mappings, m)
}

func (s *Served) has(address netip.Addr) bool {
	return slices.ContainsFunc(s.Addresses, func(p netip.Prefix) bool { return p.Addr() == address })
}
