package backend_test

import (
	"net/netip"
	"testing"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// TestConnectionsOf wants a mapping to have the numbers of its own rules, however the
// runtime asked for every address of the node.
func TestConnectionsOf(t *testing.T) {
	a := &hostport.Attachment{Key: hostport.Key{ContainerID: "a", IfName: "eth0"}}
	side := func(hostIP string, port uint16) backend.HostSide {
		return backend.HostSide{Owner: a.Key, Mapping: hostport.Mapping{HostIP: netip.MustParseAddr(hostIP), Protocol: hostport.TCP, HostPort: port}}
	}
	other := side("0.0.0.0", 80)
	other.Owner.ContainerID = "b"
	all := backend.Connections{
		side("0.0.0.0", 80): 1, side("::", 80): 2, side("192.0.2.1", 80): 4, side("0.0.0.0", 81): 8, other: 16,
	}
	for _, tc := range []struct {
		hostIP string
		port   uint16
		number uint64
		known  bool
	}{
		{"", 80, 3, true},
		{"0.0.0.0", 80, 1, true},
		{"::", 80, 2, true},
		{"192.0.2.1", 80, 4, true},
		{"192.0.2.2", 80, 0, false},
		{"", 81, 8, true},
		{"::", 81, 0, false},
	} {
		m := hostport.Mapping{HostPort: tc.port, ContainerPort: 80, Protocol: hostport.TCP}
		m.HostIP, _ = netip.ParseAddr(tc.hostIP)
		if number, known := all.Of(a, m); number != tc.number || known != tc.known {
			t.Errorf("%s: %d, known %t; want %d, %t", m, number, known, tc.number, tc.known)
		}
	}
}
