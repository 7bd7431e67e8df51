package world

import (
	"net/netip"
)

// Backend is one way to program host ports: a backend of the plugin, and for
// iptables the variant of the tool that is on PATH.
type Backend string

// The three that every behaviour is tested on.
const (
	IptablesNFT    Backend = "iptables-nft"
	IptablesLegacy Backend = "iptables-legacy"
	NFTables       Backend = "nftables"
)

// Backends lists all backends.
var Backends = []Backend{IptablesNFT, IptablesLegacy, NFTables}

// Config returns the value of the plugin's configuration key "backend".
func (b Backend) Config() string {
	switch b {
	case IptablesNFT, IptablesLegacy:
		return "iptables"
	default:
		return string(b)
	}
}

// variant returns the variant of the iptables tools on PATH. A node on the
// nftables backend has the tools too, but the plugin must not need them there.
func (b Backend) variant() variant {
	if b == IptablesLegacy {
		return variantLegacy
	}
	return variantNFT
}

// Family is an IP version.
type Family string

// The two families that every behaviour is tested on.
const (
	V4 Family = "v4"
	V6 Family = "v6"
)

// Families lists both families.
var Families = []Family{V4, V6}

// Addresses of a World, by family.
type addresses struct {
	node, nodeSecond, client, uplinkNet string
	nodeFar, elsewhere, farNet          string
	podNet, podGateway, otherNet, any   string
	loopback, zero                      string
}

var plan = map[Family]addresses{
	V4: {
		node: "192.0.2.1", nodeSecond: "192.0.2.2", client: "192.0.2.10", uplinkNet: "/24",
		nodeFar: "198.51.100.1", elsewhere: "198.51.100.10", farNet: "/24",
		podNet: "10.244.0.0/24", podGateway: "10.244.0.1", otherNet: "10.245.0.0/24",
		loopback: "127.0.0.1", zero: "0.0.0.0/0", any: "0.0.0.0",
	},
	V6: {
		node: "2001:db8:1::1", nodeSecond: "2001:db8:1::2", client: "2001:db8:1::10", uplinkNet: "/64",
		nodeFar: "2001:db8:2::1", elsewhere: "2001:db8:2::10", farNet: "/64",
		podNet: "fd00:10:244::/64", podGateway: "fd00:10:244::1", otherNet: "fd00:10:245::/64",
		loopback: "::1", zero: "::/0", any: "::",
	},
}

// Node returns the node's address on the network it shares with the client.
func (f Family) Node() netip.Addr { return netip.MustParseAddr(plan[f].node) }

// NodeSecond returns another address of the node on the same interface.
func (f Family) NodeSecond() netip.Addr { return netip.MustParseAddr(plan[f].nodeSecond) }

// NodeFar returns the node's address on the network it shares with the host
// elsewhere.
func (f Family) NodeFar() netip.Addr { return netip.MustParseAddr(plan[f].nodeFar) }

// Client returns the address of the client next to the node.
func (f Family) Client() netip.Addr { return netip.MustParseAddr(plan[f].client) }

// Elsewhere returns the address of the host that the client reaches through the
// node.
func (f Family) Elsewhere() netip.Addr { return netip.MustParseAddr(plan[f].elsewhere) }

// Gateway returns the node's address on the pod bridge.
func (f Family) Gateway() netip.Addr { return netip.MustParseAddr(plan[f].podGateway) }

// Loopback returns 127.0.0.1 or ::1.
func (f Family) Loopback() netip.Addr { return netip.MustParseAddr(plan[f].loopback) }

// Any returns the unspecified address.
func (f Family) Any() netip.Addr { return netip.MustParseAddr(plan[f].any) }

// Other returns the other family.
func (f Family) Other() Family {
	if f == V4 {
		return V6
	}
	return V4
}

// iptables returns the name of the tool for the family.
func (f Family) iptables() string {
	if f == V6 {
		return "ip6tables"
	}
	return "iptables"
}
