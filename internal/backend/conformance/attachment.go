package conformance

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// boot is the hash of the boot ID in all attachments.
const boot = "1a2b3c4d"

// pod returns the attachment of pod n with these mappings.
func (n *node) pod(number int, mappings ...string) *hostport.Attachment {
	a := &hostport.Attachment{
		Key:     hostport.Key{ContainerID: fmt.Sprintf("%064x", number), IfName: "eth0"},
		Network: "podnet",
		Sandbox: hostport.Sandbox{Path: fmt.Sprintf("/run/netns/cni-%d", number), Device: 4, Inode: uint64(4026532000 + number)},
		Pod:     hostport.Pod{Namespace: "default", Name: fmt.Sprintf("web-%d", number), UID: "f00"},
		Addresses: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, 0, byte(number + 1)}), 24),
			netip.MustParsePrefix(fmt.Sprintf("fd00:10:244::%x/64", number+1)),
		},
		Backend: n.Name,
		Options: hostport.Options{SNAT: true, MarkMasqBit: 13},
		Boot:    boot,
		State:   "0a1b2c",
	}
	for _, m := range mappings {
		a.Mappings = append(a.Mappings, Mapping(m))
	}
	return a
}

// Mapping reads "HOSTPORT:PORT", with "HOSTIP@" before it or "/udp" or "/sctp"
// after it.
func Mapping(s string) hostport.Mapping {
	m := hostport.Mapping{Protocol: hostport.TCP}
	ip, rest, found := strings.Cut(s, "@")
	if found {
		m.HostIP = netip.MustParseAddr(ip)
	} else {
		rest = s
	}
	ports, protocol, found := strings.Cut(rest, "/")
	if found {
		m.Protocol = hostport.Protocol(protocol)
	}
	if _, err := fmt.Sscanf(ports, "%d:%d", &m.HostPort, &m.ContainerPort); err != nil {
		panic(err)
	}
	return m
}

// kind is an attachment with a name for what is special about it.
type kind struct {
	name string
	*hostport.Attachment
}

// kinds returns one attachment of each kind that shapes rules differently. They
// have no ports in common, and none of those from 8000 to 8099.
func (n *node) kinds() []kind {
	v4, v6 := n.pod(110, "8110:80"), n.pod(111, "8111:80")
	v4.Addresses, v6.Addresses = v4.Addresses[:1], v6.Addresses[1:]
	many := n.pod(107)
	for i := range 100 {
		many.Mappings = append(many.Mappings, Mapping(fmt.Sprintf("%d:%d", 9000+7*i, 1+i)))
	}
	snat := n.pod(108, "8108:80")
	snat.Options.SNAT = false
	all := n.pod(109, "8109:80", "192.0.2.1@8129:81/udp")
	all.Options.MasqueradeAll = true
	conditions := n.pod(112, "8112:80", "192.0.2.1@8132:81")
	conditions.Options.ConditionsV4, conditions.Options.ConditionsV6 = n.ConditionsV4, n.ConditionsV6
	loopback := n.pod(113, "8113:80", "127.0.0.1@8133:81")
	loopback.LoopbackInterface = "cni0"
	nameless := n.pod(114, "8114:80")
	nameless.Pod, nameless.Network = hostport.Pod{}, ""
	return []kind{
		{"plain", n.pod(101, "8101:80")},
		{"all protocols", n.pod(102, "8102:80", "8102:81/udp", "8102:82/sctp")},
		{"host IPs", n.pod(103, "192.0.2.1@8103:80", "2001:db8::1@8103:80")},
		{"host IPs beside the wildcard", n.pod(104, "8104:80", "192.0.2.1@8124:81", "192.0.2.2@8124:82", "192.0.2.1@8124:81/udp")},
		{"wildcard of one family", n.pod(105, "0.0.0.0@8105:80", "::@8125:80")},
		{"edge ports", n.pod(106, "1:65535", "65535:1", "32767:1", "32768:1")},
		{"many ports", many},
		{"no masquerading", snat},
		{"masquerade all", all},
		{"IPv4 only", v4},
		{"IPv6 only", v6},
		{"conditions", conditions},
		{"loopback", loopback},
		{"no pod", nameless},
	}
}

// allKinds returns the attachments of kinds.
func (n *node) allKinds() (all []*hostport.Attachment) {
	for _, k := range n.kinds() {
		all = append(all, k.Attachment)
	}
	return all
}
