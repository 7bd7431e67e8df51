package iptables

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// TestConnections reads counters as iptables-save -c and as -v -S print them.
func TestConnections(t *testing.T) {
	saved, listed := new(ruleset), new(ruleset)
	err := saved.parse(`*nat
:CNI-HP-TCP-1F9 - [0:0]
[7:420] -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HP-DNAT
[0:0] -A CNI-HP-TCP-1F9 -s 10.244.0.0/24 -p tcp -m tcp --dport 8080 -j MARK --set-xmark 0x2000/0x2000
[5:300] -A CNI-HP-TCP-1F9 -d 192.0.2.1/32 -p tcp -m tcp --dport 8080 -m comment --comment "c1 eth0 4026532@1f.2e podnet default/web" -j DNAT --to-destination 10.244.0.2:80
[3:180] -A CNI-HP-TCP-1F9 -p tcp -m tcp --dport 8081 -m comment --comment "c1 eth0 4026532@1f.2e podnet default/web" -j DNAT --to-destination 10.244.0.2:81
[9:9] -A CNI-HP-TCP-1F9 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 10.244.0.2:81
[9:9] -A OTHER -p tcp -m tcp --dport 8081 -j DNAT --to-destination 10.244.0.2:81
COMMIT
`)
	if err != nil {
		t.Fatal(err)
	}
	err = listed.parse(`-N CNI-HP-TCP-1F9
-A CNI-HP-TCP-1F9 -s 10.244.0.0/24 -p tcp -m tcp --dport 8080 -c 0 0 -j MARK --set-xmark 0x2000/0x2000
-A CNI-HP-TCP-1F9 -d 192.0.2.1/32 -p tcp -m tcp --dport 8080 -m comment --comment "c1 eth0 4026532@1f.2e podnet default/web" -c 5 300 -j DNAT --to-destination 10.244.0.2:80
-A CNI-HP-TCP-1F9 -p tcp -m tcp --dport 8081 -m comment --comment "c1 eth0 4026532@1f.2e podnet default/web" -c 3 180 -j DNAT --to-destination 10.244.0.2:81
-P PREROUTING ACCEPT -c 0 0
-A PREROUTING -m addrtype --dst-type LOCAL -c 7 420 -j CNI-HP-DNAT
`, inNat("CNI-HP-TCP-1F9"), inNat(preroutingChain))
	if err != nil {
		t.Fatal(err)
	}
	owner := hostport.Key{ContainerID: "c1", IfName: "eth0"}
	want := backend.Connections{
		{Owner: owner, Mapping: hostport.Mapping{HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 8080, Protocol: hostport.TCP}}: 5,
		{Owner: owner, Mapping: hostport.Mapping{HostIP: netip.IPv4Unspecified(), HostPort: 8081, Protocol: hostport.TCP}}:          3,
	}
	for _, there := range []*ruleset{saved, listed} {
		got := make(backend.Connections)
		count(got, hostport.IPv4, there)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}
