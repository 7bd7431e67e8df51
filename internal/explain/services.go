package explain

import (
	"context"
	"errors"
	"net/netip"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Services knows which host ports kube-proxy takes before us.
type Services struct {
	s         *Snapshot
	addresses map[hostport.Family][]local
	known     map[place]bool
}

// local is an address of the node that clients ask, and the interface that has it.
type local struct {
	addr netip.Addr
	in   string
}

// place is an address of the node and a port.
type place struct {
	protocol hostport.Protocol
	at       netip.AddrPort
}

// Services reads the rules of the node, once for all mappings of some families. With
// an error it returns what is known from the rules that could be read.
func (c *Collector) Services(ctx context.Context, families ...hostport.Family) (*Services, error) {
	s := c.newSnapshot()
	if err := s.readLinks(); err != nil {
		return nil, err
	}
	c.readRules(ctx, s, families...)
	s.Virtual = readVirtual()
	out := &Services{s: s, addresses: map[hostport.Family][]local{}, known: map[place]bool{}}
	for _, l := range s.Links {
		// kube-proxy's IPVS mode has the addresses of all Services on interfaces of
		// this kind, and the host ports are on the others.
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

// ipvsInterface is where kube-proxy's IPVS mode has the addresses of Services.
const ipvsInterface = "kube-ipvs0"

// First reports whether a Service takes packets that come for a mapping from
// outside, at its host IP or at any address of the node.
func (s *Services) First(a *hostport.Attachment, m hostport.Mapping) bool {
	for _, f := range hostport.Families() {
		if _, has := a.Address(f); !has || !m.Serves(f) {
			continue
		}
		for _, l := range s.addresses[f] {
			if (m.Wildcard() || m.HostIP.Unmap() == l.addr) && s.first(m.Protocol, netip.AddrPortFrom(l.addr, m.HostPort), l.in) {
				return true
			}
		}
	}
	return false
}

// first sends a packet through the hook in which addresses are translated.
func (s *Services) first(p hostport.Protocol, to netip.AddrPort, in string) bool {
	at := place{p, to}
	found, seen := s.known[at]
	if seen {
		return found
	}
	from := netip.AddrPortFrom(standIn(hostport.FamilyOf(to.Addr())), clientPort)
	packet := &Packet{
		Protocol: p, Source: from, Destination: to, In: in, OriginalSource: from, OriginalDestination: to, node: s.s,
	}
	by := s.s.rules.pass(hookPrerouting, packet, StateNew)
	switch by.action {
	case actionDNAT, actionRedirect:
		found = by.site.Component == componentProxy
	default:
		found = by.accepted.Component == componentProxy && s.s.virtual(p, to)
	}
	s.known[at] = found
	return found
}
