package explain

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Stand-ins for an unknown client.
var (
	standInV4 = netip.AddrFrom4([4]byte{203, 0, 113, 1})               //nolint:gochecknoglobals // a constant
	standInV6 = netip.MustParseAddr("2001:db8:ffff:ffff:ffff:ffff::1") //nolint:gochecknoglobals // a constant
)

// standIn returns an address that no host has.
func standIn(f hostport.Family) netip.Addr {
	if f == hostport.IPv6 {
		return standInV6
	}
	return standInV4
}

// complete fills in what the question leaves open: the node's first address,
// and an assumed external client.
func (s *Snapshot) complete(q *Question) {
	if !q.Address.IsValid() {
		q.Address = s.mainAddress(q)
	}
	if q.FromNode {
		q.From, q.In = q.Address, ""
		return
	}
	if q.From.IsValid() {
		return
	}
	q.Assumed = true
	q.From = standIn(hostport.FamilyOf(q.Address))
	if r := lookup(q.From); r.Err == "" {
		return
	}
	// No default route: a neighbour in the address's network.
	if l := s.holder(q.Address); l != nil {
		for _, p := range l.Addresses {
			if p.Addr() != q.Address || p.Bits() >= p.Addr().BitLen()-1 {
				continue
			}
			addr := p.Masked().Addr().Next()
			for s.isLocal(addr) {
				addr = addr.Next()
			}
			q.From = addr
		}
	}
}

// mainAddress returns the address that the node itself would use for external
// destinations.
func (s *Snapshot) mainAddress(q *Question) netip.Addr {
	v6 := q.From.IsValid() && q.From.Is6()
	to := q.From
	if !to.IsValid() {
		to = standInV4
	}
	if r := lookup(to); r.Err == "" && r.Source.IsValid() && !s.isLocal(to) {
		return r.Source
	}
	for _, l := range s.Links {
		for _, p := range l.Addresses {
			if p.Addr().Is6() == v6 && l.Name != "lo" && l.Up && l.Type != "bridge" && !p.Addr().IsLinkLocalUnicast() {
				return p.Addr()
			}
		}
	}
	if v6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// lookup asks the kernel for a route.
func lookup(to netip.Addr) Route {
	routes, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{})
	if err != nil || len(routes) == 0 {
		return Route{Err: routeError(err)}
	}
	r := routes[0]
	out := Route{}
	out.Gateway, _ = netip.AddrFromSlice(r.Gw)
	out.Source, _ = netip.AddrFromSlice(r.Src)
	out.Gateway, out.Source = out.Gateway.Unmap(), out.Source.Unmap()
	if via, ok := r.Via.(*netlink.Via); ok {
		out.Gateway, _ = netip.AddrFromSlice(via.Addr)
	}
	if l, err := net.InterfaceByIndex(r.LinkIndex); err == nil {
		out.Out = l.Name
	}
	if match, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true}); err == nil && len(match) > 0 {
		out.Default = match[0].Dst == nil || isDefault(match[0].Dst)
	}
	return out
}

func isDefault(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0
}

func routeError(err error) string {
	switch {
	case err == nil:
		return "no route"
	case errors.Is(err, unix.ENETUNREACH):
		return "network is unreachable"
	case errors.Is(err, unix.EHOSTUNREACH):
		return "an unreachable route"
	case errors.Is(err, unix.EINVAL):
		return "a blackhole route"
	case errors.Is(err, unix.EACCES):
		return "a prohibiting route"
	default:
		return err.Error()
	}
}

func (s *Snapshot) readRoutes(q *Question, f hostport.Family, mine []node.Examined) {
	s.Routes[q.From] = lookup(q.From)
	for _, a := range mine {
		if pod, ok := a.Address(f); ok {
			s.Routes[pod.Addr()] = lookup(pod.Addr())
		}
	}
	if q.In == "" && !q.FromNode {
		q.In = s.incoming(q)
	}
}

// incoming returns the interface on which the client's packets are expected:
// that of a network that contains both, or the one that has the address;
// otherwise the one on the route to the client.
func (s *Snapshot) incoming(q *Question) string {
	if l := s.onLink(q.From); l != nil {
		return l.Name
	}
	route := s.Routes[q.From]
	l := s.holder(q.Address)
	if l == nil || l.Name == "lo" || l.Type == "dummy" || l.Type == "bridge" || route.Gateway.IsValid() && !route.Default {
		if route.Out != "" {
			return route.Out
		}
	}
	if l == nil {
		return ""
	}
	return l.Name
}
