package explain

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Services tells which host ports kube-proxy translates before our rules.
type Services struct {
	s         *Snapshot
	addresses map[hostport.Family][]local
	known     map[place]order
}

// order says whether a Service takes a packet before our rules.
type order int

const (
	oursFirst order = iota
	serviceFirst
	orderUnknown // chains of the same priority take it
)

// local is an address of the node that clients connect to, and its interface.
type local struct {
	addr netip.Addr
	in   string
}

// place is an address of the node and a port.
type place struct {
	protocol hostport.Protocol
	at       netip.AddrPort
}

// Services reads the rules of the node, once for all mappings of the given
// families. With an error it also returns the result for the rules that could
// be read.
func (c *Collector) Services(ctx context.Context, families ...hostport.Family) (*Services, error) {
	s := c.newSnapshot()
	if err := s.readLinks(); err != nil {
		return nil, err
	}
	c.readRules(ctx, s, families...)
	s.Virtual = readVirtual()
	out := &Services{s: s, addresses: map[hostport.Family][]local{}, known: map[place]order{}}
	for _, l := range s.Links {
		// kube-proxy's IPVS mode has the addresses of all Services on an interface of
		// this kind; host ports are served on the others.
		if l.Type == "dummy" && l.Name == ipvsInterface {
			continue
		}
		for _, p := range l.Addresses {
			if a := p.Addr(); !a.IsLoopback() && !a.IsLinkLocalUnicast() {
				f := hostport.FamilyOf(a)
				out.addresses[f] = append(out.addresses[f], local{a, l.Name})
			}
		}
	}
	var errs []error
	for _, text := range s.Unread {
		errs = append(errs, errors.New(text))
	}
	return out, errors.Join(errs...)
}

// ipvsInterface holds the addresses of Services in kube-proxy's IPVS mode.
const ipvsInterface = "kube-ipvs0"

// First reports whether a Service takes external packets for a mapping, at its
// host IP or at any address of the node. known is false if our rule and the
// Service's are in chains of the same priority.
func (s *Services) First(a *hostport.Attachment, m hostport.Mapping) (first, known bool) {
	known = true
	for _, f := range hostport.Families() {
		if _, has := a.Address(f); !has || !m.Serves(f) {
			continue
		}
		for _, l := range s.addresses[f] {
			if !m.Wildcard() && m.HostIP.Unmap() != l.addr {
				continue
			}
			switch s.first(m.Protocol, netip.AddrPortFrom(l.addr, m.HostPort), l.in) {
			case serviceFirst:
				return true, true
			case orderUnknown:
				known = false
			}
		}
	}
	return false, known
}

// first walks a packet through the hook in which destinations are translated.
func (s *Services) first(p hostport.Protocol, to netip.AddrPort, in string) order {
	at := place{p, to}
	if found, seen := s.known[at]; seen {
		return found
	}
	from := netip.AddrPortFrom(standIn(hostport.FamilyOf(to.Addr())), clientPort)
	by := s.s.rules.pass(hookPrerouting, s.s.packet(p, from, to, in), StateNew)
	taken := by.site.Component == componentProxy
	if by.action != actionDNAT && by.action != actionRedirect {
		taken = by.accepted.Component == componentProxy && s.s.virtual(p, to)
	}
	found := oursFirst
	if taken {
		found = serviceFirst
	}
	if slices.ContainsFunc(by.rivals, func(r passage) bool { return (r.site.Component == componentProxy) != taken }) {
		found = orderUnknown
	}
	s.known[at] = found
	return found
}
