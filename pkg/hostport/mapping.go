package hostport

import (
	"fmt"
	"net/netip"
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
			side := Mapping{HostIP: f.Unspecified(), HostPort: m.HostPort, Protocol: m.Protocol}
			if !m.Wildcard() {
				side.HostIP = m.HostIP.Unmap()
			}
			if i, known := seen[side]; !known {
				seen[side] = j
			} else if ms[i].ContainerPort != m.ContainerPort {
				return i, j, true
			}
		}
	}
	return 0, 0, false
}
