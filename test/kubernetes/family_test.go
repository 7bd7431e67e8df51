package kubernetes

import (
	"net/netip"
	"strings"
)

// family is one of a cluster's address families. On the node's link to the
// outside are its clients. Outside has no route to the pods: a reply whose source
// was not translated back is lost.
type family struct {
	node, outside  netip.Prefix // the link's ends
	pods, services netip.Prefix
	everywhere     netip.Prefix // the default route
	forwarding     string       // the kernel's setting
}

var (
	ipv4 = family{
		node:       netip.MustParsePrefix("192.0.2.1/24"),
		outside:    netip.MustParsePrefix("192.0.2.2/24"),
		pods:       netip.MustParsePrefix("10.244.0.0/24"),
		services:   netip.MustParsePrefix("10.96.0.0/16"),
		everywhere: netip.MustParsePrefix("0.0.0.0/0"),
		forwarding: "/proc/sys/net/ipv4/ip_forward",
	}
	ipv6 = family{
		node:       netip.MustParsePrefix("2001:db8:0:1::1/64"),
		outside:    netip.MustParsePrefix("2001:db8:0:1::2/64"),
		pods:       netip.MustParsePrefix("fd00:10:244::/64"),
		services:   netip.MustParsePrefix("fd00:10:96::/112"),
		everywhere: netip.MustParsePrefix("::/0"),
		forwarding: "/proc/sys/net/ipv6/conf/all/forwarding",
	}
)

func (f family) String() string {
	if f == ipv4 {
		return "IPv4"
	}
	return "IPv6"
}

// onNode is a port of the node, as the outside knows it.
func (f family) onNode(port int32) netip.AddrPort {
	return netip.AddrPortFrom(f.node.Addr(), uint16(port))
}

// onNode is a port of a node of the usual family.
func onNode(port int32) netip.AddrPort { return ipv4.onNode(port) }

// onLocalhost is the same port, as only the node itself may know it. The kernel
// has that for IPv4 alone.
func onLocalhost(port int32) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
}

// every lists something of each family as the flags of Kubernetes want it.
func every(families []family, what func(family) string) string {
	var out []string
	for _, f := range families {
		out = append(out, what(f))
	}
	return strings.Join(out, ",")
}

func nodeOf(f family) string     { return f.node.Addr().String() }
func podsOf(f family) string     { return f.pods.String() }
func servicesOf(f family) string { return f.services.String() }
