package hostport

import (
	"fmt"
	"net/netip"
	"strings"
)

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
