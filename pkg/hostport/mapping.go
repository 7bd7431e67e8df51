package hostport

import (
	"fmt"
	"net/netip"
	"strings"
)

// Mapping sends one port of the node to one port of a pod.
type Mapping struct {
	// HostIP is the node address that is mapped. The zero Addr means every address
	// of both families; 0.0.0.0 and :: mean every address of their own.
	HostIP        netip.Addr `json:"hostIP,omitzero"`
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
	Protocol      Protocol   `json:"protocol"`
}

// Wildcard reports whether the mapping is for every address of the node.
func (m Mapping) Wildcard() bool {
	return !m.HostIP.IsValid() || m.HostIP.Unmap().IsUnspecified()
}

// Serves reports whether the mapping is for addresses of family f.
func (m Mapping) Serves(f Family) bool {
	return !m.HostIP.IsValid() || FamilyOf(m.HostIP) == f
}

// Overlaps reports whether both mappings claim packets to the same node address,
// protocol and port.
func (m Mapping) Overlaps(o Mapping) bool {
	if m.Protocol != o.Protocol || m.HostPort != o.HostPort {
		return false
	}
	sameFamily := m.Serves(IPv4) && o.Serves(IPv4) || m.Serves(IPv6) && o.Serves(IPv6)
	return sameFamily && (m.Wildcard() || o.Wildcard() || m.HostIP.Unmap() == o.HostIP.Unmap())
}

// Port returns the host port as people write it: "8080/tcp".
func (m Mapping) Port() string {
	return fmt.Sprintf("%d/%s", m.HostPort, m.Protocol)
}

// String returns the host side as people write it: "8080/tcp",
// "192.0.2.1:8080/tcp", "[2001:db8::1]:8080/tcp".
func (m Mapping) String() string {
	if !m.HostIP.IsValid() {
		return m.Port()
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(m.HostIP, m.HostPort), m.Protocol)
}

// Side returns what rules of family f match for the mapping: protocol, host port, and a
// host IP that is explicit, 0.0.0.0 or :: for every address.
func (m Mapping) Side(f Family) Mapping {
	side := Mapping{HostIP: f.Unspecified(), HostPort: m.HostPort, Protocol: m.Protocol}
	if !m.Wildcard() {
		side.HostIP = m.HostIP.Unmap()
	}
	return side
}

// Contradiction finds two mappings of one list that claim the same host side
// but lead to different container ports. A specific host IP and a wildcard do not
// contradict each other: the specific one wins. It returns the two indices.
func Contradiction(ms []Mapping) (i, j int, found bool) {
	seen := make(map[Mapping]int, len(ms)) // by the host side
	for j, m := range ms {
		for _, f := range Families() {
			if !m.Serves(f) {
				continue
			}
			side := m.Side(f)
			if i, known := seen[side]; !known {
				seen[side] = j
			} else if ms[i].ContainerPort != m.ContainerPort {
				return i, j, true
			}
		}
	}
	return 0, 0, false
}

// Protocol is a transport protocol that can carry a port mapping.
type Protocol string

// The protocols that the CNI portMappings convention knows.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// ParseProtocol reads a protocol name without regard to case. The empty string
// is TCP: the CNI conventions make it the default.
func ParseProtocol(s string) (Protocol, error) {
	switch p := Protocol(strings.ToLower(s)); p {
	case "":
		return TCP, nil
	case TCP, UDP, SCTP:
		return p, nil
	default:
		return "", fmt.Errorf("unknown protocol %.80q: want tcp, udp or sctp", s)
	}
}

// Number returns the IANA protocol number, as in the IP header.
func (p Protocol) Number() uint8 {
	switch p {
	case UDP:
		return 17
	case SCTP:
		return 132
	default:
		return 6
	}
}

// Family is an IP address family, by its version number.
type Family uint8

// The two families a mapping can serve.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families returns both families, in the order in which they are programmed.
func Families() []Family { return []Family{IPv4, IPv6} }

// FamilyOf returns the family of a valid address; an IPv4-mapped IPv6 address
// counts as IPv4.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// String returns "IPv4" or "IPv6".
func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// Unspecified returns 0.0.0.0 or ::, which stands for every address of the family.
func (f Family) Unspecified() netip.Addr {
	if f == IPv4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
