package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// iptablesServices are a NodePort and an external IP as kube-proxy's iptables mode
// has them.
const iptablesServices = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-EXT-A - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-A - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d %[1]s/32 -p tcp -m comment --comment "default/a external IP" -m tcp --dport 8082 -j KUBE-EXT-A
-A KUBE-SERVICES -d %[1]s/32 -p tcp -m comment --comment "default/a external IP" -m tcp --dport 8083 -j KUBE-EXT-A
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m comment --comment default/a -m tcp --dport 8081 -j KUBE-EXT-A
-A KUBE-EXT-A -j KUBE-SVC-A
-A KUBE-SVC-A -m comment --comment "default/a -> %[2]s" -j KUBE-SEP-A
-A KUBE-SEP-A -p tcp -m comment --comment default/a -m tcp -j DNAT --to-destination %[2]s
COMMIT
`

// nftablesServices are the same in kube-proxy's nftables mode.
const nftablesServices = `table ip kube-proxy {
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict
		elements = { %[1]s . tcp . 8082 : goto external-A, %[1]s . tcp . 8083 : goto external-A }; }
	map service-nodeports { type inet_proto . inet_service : verdict; elements = { tcp . 8081 : goto external-A }; }
	set nodeport-ips { type ipv4_addr; elements = { %[3]s, %[1]s }; }
	chain external-A { goto service-A; }
	chain service-A { numgen random mod 1 vmap { 0 : goto endpoint-A }; }
	chain endpoint-A { meta l4proto tcp dnat to %[2]s; }
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}
	chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
}`

// services are on host ports of ours. A real packet shows who answers, and list
// says so. 8083 is the Service's on another address than the mapping's.
func services(c tool) {
	c.w.Elsewhere.Serve("tcp", 9000)
	to := netip.AddrPortFrom(world.V4.Elsewhere(), 9000)
	if c.w.Backend == world.NFTables {
		c.w.NFT(fmt.Sprintf(nftablesServices, world.V4.NodeSecond(), to, world.V4.Node()))
	} else {
		c.w.IptablesRestore(world.V4, fmt.Sprintf(iptablesServices, world.V4.NodeSecond(), to))
	}
	n := c.w.NewNetwork(world.NetworkOptions{})
	n.MustAdd(c, "web", world.TCP(8080, 80), world.TCP(8081, 80), world.TCP(8082, 80), world.TCP(8083, 80).On(world.V4.Node())).
		Pod.Serve("tcp", 80)
	c.w.Node.Serve("tcp", 8081) // a Service is more than a socket

	want := map[string]string{"8080": "ok", "8081": "service first", "8082": "service first", "8083": "ok"}
	for port, state := range want {
		at := world.V4.Node()
		if port == "8082" {
			at = world.V4.NodeSecond()
		}
		server := map[string]string{"ok": "web", "service first": "elsewhere"}[state]
		if got := c.w.Client.Ask(c, "tcp", netip.MustParseAddrPort(at.String()+":"+port)); got.Server != server {
			c.Errorf("port %s was answered by %q, want %q", port, got.Server, server)
		}
	}
	if diff := cmp.Diff(want, c.states()); diff != "" {
		c.Errorf("states (-want +got):\n%s", diff)
	}
	if c.w.Backend == world.NFTables {
		return
	}
	// Rules that cannot be read leave the state as it is known without them.
	c.w.ReplaceTool("iptables-save", "exit 1")
	if got := c.states(); len(got) != len(want) || got["8081"] == "service first" {
		c.Errorf("states without iptables-save: %v", got)
	}
	c.fails(0, "not all of the node could be read", "list")
}

// states returns the state of each host port.
func (c tool) states() map[string]string {
	c.Helper()
	out, stderr, code := c.run("list", "-o", "json")
	var l listing
	if err := json.Unmarshal([]byte(out), &l); err != nil || code != 0 {
		c.Fatalf("list: exit status %d, %v\n%s%s", code, err, out, stderr)
	}
	got := map[string]string{}
	for _, p := range l.HostPorts {
		got[fmt.Sprint(p.HostPort)] = string(p.State)
	}
	return got
}

// TestListReadsRulesOnce wants as many listings of rules for a hundred mappings as
// for one.
func TestListReadsRulesOnce(t *testing.T) {
	binary := world.Build(t, "github.com/hostport-cni/hostport/cmd/hostportctl")
	w := world.New(t, world.Options{Backend: world.IptablesNFT})
	c := tool{T: t, w: w, binary: binary}
	n := w.NewNetwork(world.NetworkOptions{})
	started := func() int {
		w.Started() // forget those of before
		if out, stderr, code := c.run("list"); code != 0 {
			t.Fatalf("list: exit status %d\n%s%s", code, out, stderr)
		}
		return strings.Count(strings.Join(w.Started(), " "), "-save")
	}
	n.MustAdd(t, "one", world.TCP(8000, 80))
	one := started()
	var ports []world.Mapping
	for i := range 100 {
		ports = append(ports, world.TCP(9000+i, 80))
	}
	n.MustAdd(t, "many", ports...)
	if many := started(); many != one || one == 0 {
		t.Errorf("%d listings for one mapping and %d for 101", one, many)
	}
}
