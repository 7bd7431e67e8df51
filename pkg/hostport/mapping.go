package hostport

import (
	"fmt"
	"net/netip"
)

// Mapping sends one port of the node to one port of a pod.
type Mapping struct {
	// HostIP is the node address that is mapped. The zero Addr is every
	// address of both families; 0.0.0.0 and :: are every address of theirs.
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

// Overlaps reports whether both mappings claim a packet to one and the same
// node address, protocol and port.
func (m Mapping) Overlaps(o Mapping) bool {
	if m.Protocol != o.Protocol || m.HostPort != o.HostPort {
		return false
	}
	switch {
	case !m.HostIP.IsValid() || !o.HostIP.IsValid():
		return true
	case FamilyOf(m.HostIP) != FamilyOf(o.HostIP):
		return false
	case m.Wildcard() || o.Wildcard():
		return true
	default:
		return m.HostIP.Unmap() == o.HostIP.Unmap()
	}
}

// Port is the host port as people write it: "8080/tcp".
func (m Mapping) Port() string {
	return fmt.Sprintf("%d/%s", m.HostPort, m.Protocol)
}

// String is the host side as people write it: "8080/tcp",
// "192.0.2.1:8080/tcp", "[2001:db8::1]:8080/tcp".
func (m Mapping) String() string {
	if !m.HostIP.IsValid() {
		return m.Port()
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(m.HostIP, m.HostPort), m.Protocol)
}

// Contradiction finds two mappings of one list that claim the same host side
// but lead to different container ports. A specific host IP beside a wildcard
// is no contradiction: the specific one wins. It returns the two indices.
func Contradiction(ms []Mapping) (i, j int, found bool) {
	type side struct {
		ip    netip.Addr
		port  uint16
		proto Protocol
	}
	seen := make(map[side]int, len(ms))
	for j, m := range ms {
		for _, f := range Families() {
			if !m.Serves(f) {
				continue
			}
			s := side{hostAddr(m, f), m.HostPort, m.Protocol}
			i, ok := seen[s]
			if !ok {
				seen[s] = j
			} else if ms[i].ContainerPort != m.ContainerPort {
				return i, j, true
			}
		}
	}
	return 0, 0, false
}

// hostAddr is the host IP within one family, the wildcard written out.
func hostAddr(m Mapping, f Family) netip.Addr {
	if !m.Wildcard() {
		return m.HostIP.Unmap()
	}
	if f == IPv4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
