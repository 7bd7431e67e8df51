package hostport_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

// tcp is a mapping of TCP port 8080 on a host IP.
func tcp(hostIP string) hostport.Mapping {
	return hostport.Mapping{HostIP: addr(hostIP), HostPort: 8080, ContainerPort: 80, Protocol: hostport.TCP}
}

func TestParseProtocol(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want hostport.Protocol
	}{
		{"", hostport.TCP}, {"tcp", hostport.TCP}, {"TCP", hostport.TCP}, {"Udp", hostport.UDP}, {"sCTP", hostport.SCTP},
	} {
		got, err := hostport.ParseProtocol(tc.in)
		if err != nil || got != tc.want {
			t.Errorf("ParseProtocol(%q) = %q, %v, want %q", tc.in, got, err, tc.want)
		}
	}
	for _, in := range []string{"icmp", "tcp ", " tcp", "tcp\n", "6", "tcp/udp", "-", "\x00", "ТСР"} {
		if got, err := hostport.ParseProtocol(in); err == nil {
			t.Errorf("ParseProtocol(%q) = %q, want an error", in, got)
		}
	}
}

func TestProtocolNumber(t *testing.T) {
	got := []uint8{hostport.TCP.Number(), hostport.UDP.Number(), hostport.SCTP.Number()}
	if diff := cmp.Diff([]uint8{6, 17, 132}, got); diff != "" {
		t.Errorf("numbers (-want +got):\n%s", diff)
	}
}

func TestFamilyOf(t *testing.T) {
	for in, want := range map[string]hostport.Family{
		"192.0.2.1": hostport.IPv4, "0.0.0.0": hostport.IPv4, "::ffff:192.0.2.1": hostport.IPv4,
		"::": hostport.IPv6, "2001:db8::1": hostport.IPv6, "fe80::1%eth0": hostport.IPv6,
	} {
		if got := hostport.FamilyOf(addr(in)); got != want {
			t.Errorf("FamilyOf(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestWildcardAndServes(t *testing.T) {
	for _, tc := range []struct {
		hostIP           string
		wildcard, v4, v6 bool
	}{
		{"", true, true, true},
		{"0.0.0.0", true, true, false},
		{"::ffff:0.0.0.0", true, true, false},
		{"::", true, false, true},
		{"192.0.2.1", false, true, false},
		{"::ffff:192.0.2.1", false, true, false},
		{"2001:db8::1", false, false, true},
	} {
		m := tcp(tc.hostIP)
		got := []bool{m.Wildcard(), m.Serves(hostport.IPv4), m.Serves(hostport.IPv6)}
		if diff := cmp.Diff([]bool{tc.wildcard, tc.v4, tc.v6}, got); diff != "" {
			t.Errorf("host IP %q: wildcard, IPv4, IPv6 (-want +got):\n%s", tc.hostIP, diff)
		}
	}
}

func TestOverlaps(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"", "", true},
		{"", "0.0.0.0", true},
		{"", "::", true},
		{"", "192.0.2.1", true},
		{"", "2001:db8::1", true},
		{"0.0.0.0", "::", false},
		{"0.0.0.0", "192.0.2.1", true},
		{"0.0.0.0", "2001:db8::1", false},
		{"::", "192.0.2.1", false},
		{"::", "2001:db8::1", true},
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"0.0.0.0", "::ffff:192.0.2.1", true},
		{"::ffff:0.0.0.0", "192.0.2.1", true},
		{"::", "::ffff:192.0.2.1", false},
		{"2001:db8::1", "2001:DB8:0::1", true},
		{"2001:db8::1", "2001:db8::2", false},
	} {
		a, b := tcp(tc.a), tcp(tc.b)
		if got := a.Overlaps(b); got != tc.want {
			t.Errorf("%s overlaps %s: %t, want %t", a, b, got, tc.want)
		}
		if got := b.Overlaps(a); got != tc.want {
			t.Errorf("%s overlaps %s: %t, want %t", b, a, got, tc.want)
		}
		for _, other := range []hostport.Mapping{
			{HostIP: b.HostIP, HostPort: 8080, Protocol: hostport.UDP},
			{HostIP: b.HostIP, HostPort: 8081, Protocol: hostport.TCP},
		} {
			if a.Overlaps(other) {
				t.Errorf("%s overlaps %s", a, other)
			}
		}
	}
}

func TestMappingString(t *testing.T) {
	for hostIP, want := range map[string]string{
		"": "8080/tcp", "0.0.0.0": "0.0.0.0:8080/tcp", "192.0.2.1": "192.0.2.1:8080/tcp", "2001:db8::1": "[2001:db8::1]:8080/tcp",
	} {
		if got := tcp(hostIP).String(); got != want {
			t.Errorf("host IP %q: %q, want %q", hostIP, got, want)
		}
	}
}

func TestContradiction(t *testing.T) {
	m := func(hostIP string, containerPort uint16) hostport.Mapping {
		m := tcp(hostIP)
		m.ContainerPort = containerPort
		return m
	}
	udp := m("", 81)
	udp.Protocol = hostport.UDP
	for _, tc := range []struct {
		name string
		ms   []hostport.Mapping
		i, j int
		want bool
	}{
		{name: "none"},
		{name: "doublet", ms: []hostport.Mapping{m("", 80), m("", 80)}},
		{name: "two protocols", ms: []hostport.Mapping{m("", 80), udp}},
		{name: "same side", ms: []hostport.Mapping{m("", 80), m("", 81)}, i: 0, j: 1, want: true},
		{name: "wildcards of one family", ms: []hostport.Mapping{udp, m("", 80), m("::", 81)}, i: 1, j: 2, want: true},
		{name: "wildcards of two families", ms: []hostport.Mapping{m("0.0.0.0", 80), m("::", 81)}},
		{name: "wildcard first, then both", ms: []hostport.Mapping{m("0.0.0.0", 80), m("", 81)}, i: 0, j: 1, want: true},
		{name: "specific beside wildcard", ms: []hostport.Mapping{m("", 80), m("192.0.2.1", 81)}},
		{name: "two specific", ms: []hostport.Mapping{m("192.0.2.1", 80), m("192.0.2.2", 81)}},
		{name: "mapped address", ms: []hostport.Mapping{m("192.0.2.1", 80), m("::ffff:192.0.2.1", 81)}, i: 0, j: 1, want: true},
	} {
		i, j, found := hostport.Contradiction(tc.ms)
		if found != tc.want || i != tc.i || j != tc.j {
			t.Errorf("%s: %d, %d, %t, want %d, %d, %t", tc.name, i, j, found, tc.i, tc.j, tc.want)
		}
	}
}
