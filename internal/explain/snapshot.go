package explain

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hostport-cni/hostport/internal/listener"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Snapshot is the state of a node that Explain works on.
type Snapshot struct {
	Links []Link
	// Routes holds the routes to the addresses of the question.
	Routes map[netip.Addr]Route
	// Sysctls holds kernel parameters by their path below /proc/sys.
	Sysctls map[string]string
	// Listeners holds the node's own sockets on the port of the question.
	Listeners []listener.Listener
	// Pods holds the sandboxes of the attachments that map the port.
	Pods map[hostport.Key]PodView
	// Conntrack is the fill level of the connection tracking table.
	Conntrack Fill
	// Flows counts the tracked connections to the address and port of the
	// question, by destination.
	Flows map[netip.AddrPort]int
	// Virtual holds the addresses and ports that IPVS serves.
	Virtual []VirtualServer
	// Programs holds the eBPF programs on the packet's path.
	Programs []Program
	// Unread lists, in sentences, what could not be read.
	Unread []string

	rules   ruleset
	variant string // of the tool iptables, as returned by saveAll
	// sets reports whether a packet is in an ipset. It is nil if sets cannot be
	// queried.
	sets func(p *Packet, set string, dirs []string) (bool, error)
	// refused is why the rules of nf_tables could not be read, nil if they could.
	refused error
	// rulesHidden says that some rules could not be read.
	rulesHidden bool
}

// Link is an interface of the node.
type Link struct {
	Index int
	Name  string
	Type  string
	// Master is the bridge or bond that it is a port of, "" if none.
	Master    string
	Up        bool
	Addresses []netip.Prefix
}

// Route is the kernel's answer to a route lookup.
type Route struct {
	Out     string
	Gateway netip.Addr
	// Source is the address that the kernel would send from.
	Source netip.Addr
	// Default is set if it is no more specific than a default route.
	Default bool
	// Err is why there is no route, "" if there is one.
	Err string
}

// PodView is what is visible inside a pod's network namespace.
type PodView struct {
	// Hidden is why it is not visible, "" if it is.
	Hidden string
	// Listeners are sockets on the container ports of the question.
	Listeners []listener.Listener
	// Return is the route of the reply, and Peer the node's interface at the other
	// end of the pod's interface on that route, "" if there is none.
	Return map[netip.Addr]Route
	Peer   string
	// ReturnPeer is Peer for the interface that the reply leaves through.
	ReturnPeer map[netip.Addr]string
}

// Fill is the number of entries in the connection tracking table, and the
// limit.
type Fill struct{ Count, Max int }

func (f Fill) nearlyFull() bool { return f.Count*10 >= f.Max*9 }

// raise returns the command that doubles the limit.
func (f Fill) raise() string {
	return fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*f.Max)
}

// Program is an eBPF program that may change what happens to the packet.
type Program struct {
	// Hook is where the kernel runs it: XDP, tc ingress or egress, or an attachment
	// point of cgroups.
	Hook string
	// Where is the interface or the cgroup.
	Where string
	Name  string
}

func (s *Snapshot) link(name string) *Link {
	if i := slices.IndexFunc(s.Links, func(l Link) bool { return l.Name == name }); i >= 0 {
		return &s.Links[i]
	}
	return nil
}

// holder returns the interface that has an address.
func (s *Snapshot) holder(addr netip.Addr) *Link {
	for i, l := range s.Links {
		if slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr() == addr }) {
			return &s.Links[i]
		}
	}
	return nil
}

// isLocal reports whether packets to an address are for the node.
func (s *Snapshot) isLocal(addr netip.Addr) bool {
	return addr.Is4() && addr.IsLoopback() || s.holder(addr) != nil
}

// addrType returns the address's type as iptables names it.
func (s *Snapshot) addrType(addr netip.Addr) string {
	switch {
	case s.isLocal(addr):
		return "LOCAL"
	case addr.IsMulticast():
		return "MULTICAST"
	case s.isBroadcast(addr):
		return "BROADCAST"
	default:
		return "UNICAST"
	}
}

func (s *Snapshot) isBroadcast(addr netip.Addr) bool {
	if !addr.Is4() {
		return false
	}
	if addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	for _, l := range s.Links {
		for _, p := range l.Addresses {
			if p.Addr().Is4() && p.Bits() < 31 && lastOf(p) == addr {
				return true
			}
		}
	}
	return false
}

// lastOf returns the highest address of an IPv4 network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// onLink returns the interface whose network contains an address.
func (s *Snapshot) onLink(addr netip.Addr) *Link {
	for i, l := range s.Links {
		if slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Contains(addr) && p.Bits() < addr.BitLen() }) {
			return &s.Links[i]
		}
	}
	return nil
}

// sourceFor returns the address that masquerading on an interface chooses: one
// in the destination's network, or the first global one.
func (s *Snapshot) sourceFor(name string, to netip.Addr) netip.Addr {
	l := s.link(name)
	if l == nil {
		return netip.Addr{}
	}
	var first netip.Addr
	for _, p := range l.Addresses {
		if hostport.FamilyOf(p.Addr()) != hostport.FamilyOf(to) || p.Addr().IsLinkLocalUnicast() && !to.IsLinkLocalUnicast() {
			continue
		}
		if p.Contains(to) {
			return p.Addr()
		}
		if !first.IsValid() {
			first = p.Addr()
		}
	}
	if r := s.Routes[to]; !first.IsValid() && r.Source.IsValid() {
		return r.Source
	}
	return first
}

// sysctl returns the value of a parameter of an interface.
func (s *Snapshot) sysctl(f hostport.Family, iface, name string) string {
	return s.Sysctls[sysctlPath(f, iface, name)]
}

func sysctlPath(f hostport.Family, iface, name string) string {
	// In a path, a "." of the name would be a separator to sysctl(8) only.
	return "net/ipv" + string('0'+rune(f)) + "/conf/" + iface + "/" + name
}
