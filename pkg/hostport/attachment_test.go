package hostport_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

func prefixes(ss ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var plain = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}), cmpopts.EquateEmpty()}

func TestForwards(t *testing.T) {
	m := func(proto hostport.Protocol, hostIP string, host, container uint16) hostport.Mapping {
		return hostport.Mapping{HostIP: addr(hostIP), HostPort: host, ContainerPort: container, Protocol: proto}
	}
	a := &hostport.Attachment{
		Addresses: prefixes("10.244.0.40/24", "fd00::40/64"),
		Mappings: []hostport.Mapping{
			m(hostport.UDP, "", 53, 5353),
			m(hostport.TCP, "", 8080, 80),
			m(hostport.TCP, "0.0.0.0", 8080, 80), // a doublet within IPv4
			m(hostport.TCP, "", 8080, 80),        // a doublet
			m(hostport.TCP, "192.0.2.1", 8080, 81),
			m(hostport.TCP, "::ffff:192.0.2.2", 8080, 82),
			m(hostport.TCP, "2001:db8::1", 8080, 83),
			m(hostport.TCP, "", 443, 8443),
			m(hostport.SCTP, "::", 9, 9),
		},
	}
	f := func(proto hostport.Protocol, hostIP string, port uint16, to string) hostport.Forward {
		return hostport.Forward{Protocol: proto, HostIP: addr(hostIP), HostPort: port, To: netip.MustParseAddrPort(to)}
	}
	want := map[hostport.Family][]hostport.Forward{
		hostport.IPv4: {
			f(hostport.TCP, "", 443, "10.244.0.40:8443"),
			f(hostport.TCP, "192.0.2.2", 8080, "10.244.0.40:82"),
			f(hostport.TCP, "192.0.2.1", 8080, "10.244.0.40:81"),
			f(hostport.TCP, "", 8080, "10.244.0.40:80"),
			f(hostport.UDP, "", 53, "10.244.0.40:5353"),
		},
		hostport.IPv6: {
			f(hostport.SCTP, "", 9, "[fd00::40]:9"),
			f(hostport.TCP, "", 443, "[fd00::40]:8443"),
			f(hostport.TCP, "2001:db8::1", 8080, "[fd00::40]:83"),
			f(hostport.TCP, "", 8080, "[fd00::40]:80"),
			f(hostport.UDP, "", 53, "[fd00::40]:5353"),
		},
	}
	for _, family := range hostport.Families() {
		if diff := cmp.Diff(want[family], a.Forwards(family), plain); diff != "" {
			t.Errorf("%s (-want +got):\n%s", family, diff)
		}
	}
	a.Addresses = prefixes("fd00::40/64")
	if got := a.Forwards(hostport.IPv4); got != nil {
		t.Errorf("IPv4 forwards of a pod without IPv4: %v", got)
	}
}

func TestClients(t *testing.T) {
	for _, tc := range []struct {
		name   string
		opts   hostport.Options
		addrs  []netip.Prefix
		v4, v6 []netip.Prefix
	}{
		{
			name: "default", opts: hostport.Options{SNAT: true}, addrs: prefixes("10.244.0.40/24", "fd00::40/64"),
			v4: prefixes("10.244.0.0/24", "127.0.0.0/8"), v6: prefixes("fd00::/64"),
		},
		{
			name: "routed pod", opts: hostport.Options{SNAT: true}, addrs: prefixes("10.244.0.40/32"),
			v4: prefixes("10.244.0.40/32", "127.0.0.0/8"),
		},
		{
			name: "everyone", opts: hostport.Options{SNAT: true, MasqueradeAll: true}, addrs: prefixes("10.244.0.40/24", "fd00::40/64"),
			v4: prefixes("0.0.0.0/0"), v6: prefixes("::/0"),
		},
		{name: "no one", opts: hostport.Options{MasqueradeAll: true}, addrs: prefixes("10.244.0.40/24", "fd00::40/64")},
	} {
		a := &hostport.Attachment{Addresses: tc.addrs, Options: tc.opts}
		if diff := cmp.Diff(tc.v4, a.Clients(hostport.IPv4), plain); diff != "" {
			t.Errorf("%s, IPv4 (-want +got):\n%s", tc.name, diff)
		}
		if diff := cmp.Diff(tc.v6, a.Clients(hostport.IPv6), plain); diff != "" {
			t.Errorf("%s, IPv6 (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestOwner(t *testing.T) {
	pod := hostport.Pod{Namespace: "kube-system", Name: "ingress"}
	for _, tc := range []struct {
		a    hostport.Attachment
		want string
	}{
		{hostport.Attachment{Key: hostport.Key{ContainerID: "3f2a", IfName: "eth0"}}, "container 3f2a"},
		{hostport.Attachment{Key: hostport.Key{ContainerID: "3f2a", IfName: "net1"}}, "container 3f2a (net1)"},
		{hostport.Attachment{Key: hostport.Key{ContainerID: "3f2a", IfName: "eth0"}, Pod: pod}, "pod kube-system/ingress (container 3f2a)"},
		{hostport.Attachment{Key: hostport.Key{ContainerID: "3f2a", IfName: "eth0"}, Pod: hostport.Pod{Name: "web"}}, "pod web (container 3f2a)"},
	} {
		if got := tc.a.Owner(); got != tc.want {
			t.Errorf("owner %q, want %q", got, tc.want)
		}
	}
}

func TestSandboxSame(t *testing.T) {
	a := hostport.Sandbox{Path: "/run/netns/a", Device: 4, Inode: 7}
	for _, tc := range []struct {
		b    hostport.Sandbox
		want bool
	}{
		{hostport.Sandbox{Path: "/run/netns/b", Device: 4, Inode: 7}, true},
		{hostport.Sandbox{Path: "/run/netns/a", Device: 4, Inode: 8}, false},
		{hostport.Sandbox{Path: "/run/netns/a", Device: 5, Inode: 7}, false},
	} {
		if got := a.Same(tc.b); got != tc.want {
			t.Errorf("%v same as %v: %t, want %t", a, tc.b, got, tc.want)
		}
	}
	if (hostport.Sandbox{}).Same(hostport.Sandbox{}) {
		t.Error("two unknown sandboxes are the same")
	}
}

func TestServes(t *testing.T) {
	for _, tc := range []struct {
		pod            []netip.Prefix
		v4, v6, either bool
	}{
		{nil, false, false, false},
		{prefixes("10.0.0.1/24"), true, false, true},
		{prefixes("fd00::1/64"), false, true, true},
		{prefixes("10.0.0.1/24", "fd00::1/64"), true, true, true},
	} {
		a := hostport.Attachment{Addresses: tc.pod}
		for hostIP, want := range map[string]bool{"192.0.2.1": tc.v4, "::": tc.v6, "": tc.either} {
			if got := a.Serves(hostport.Mapping{HostIP: addr(hostIP), HostPort: 1}); got != want {
				t.Errorf("pod of %v serves a mapping at %q: %v, want %v", tc.pod, hostIP, got, want)
			}
		}
	}
}
