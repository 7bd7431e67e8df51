//go:build kernels

package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/hostport-cni/hostport/test/answer"
	"github.com/hostport-cni/hostport/test/world"
)

// kernelScenarios need what a kernel for tests or for clouds may lack.
func kernelScenarios() []scenario {
	return []scenario{
		{name: "SCTP associations", run: sctpAssociation},
		{name: "an SCTP client with two addresses", run: sctpMultihomed},
		{name: "kube-proxy's IPVS mode", run: ipvsMode},
		{name: "an uplink in a VRF", run: vrf},
		{name: "127.0.0.1 beside a VRF", families: v4Only, run: func(e *env) {
			e.enslave("far0")
			e.web()
			e.reaches(e.w.Node, "tcp", netip.AddrPortFrom(e.f.Loopback(), 8080), "web")
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		}},
		{name: "a flowtable", run: flowtable},
	}
}

// ipvsMode has a Service as kube-proxy's IPVS mode has: its address on an interface
// of the node, and a NodePort. The host port is another one.
func ipvsMode(e *env) {
	service := "10.96.0.10"
	bits, condition := "/32", []string{"!", "-d", "10.96.0.0/12"}
	if e.w.Backend == world.NFTables {
		condition = []string{"ip daddr != 10.96.0.0/12"}
	}
	if e.f == world.V6 {
		service, bits = "fd00:10:96::a", "/128"
		condition = []string{"!", "-d", "fd00:10:96::/108"}
		if e.w.Backend == world.NFTables {
			condition = []string{"ip6 daddr != fd00:10:96::/108"}
		}
	}
	e.w.Node.Command("ip", "link", "add", "kube-ipvs0", "type", "dummy")
	e.w.Node.AddAddress("kube-ipvs0", service+bits)
	e.w.Elsewhere.Serve("tcp", 9000)
	to := netip.AddrPortFrom(e.f.Elsewhere(), 9000).String()
	at := netip.AddrPortFrom(netip.MustParseAddr(service), 8080)
	nodePort := e.node(30080)
	for _, virtual := range []string{at.String(), nodePort.String()} {
		e.w.Node.Command("ipvsadm", "-A", "-t", virtual, "-s", "rr")
		e.w.Node.Command("ipvsadm", "-a", "-t", virtual, "-r", to, "-m")
	}
	e.w.Node.Sysctl("net/ipv4/vs/conntrack", "1")

	n := e.network(world.NetworkOptions{Hostport: world.Config{"conditions" + strings.ToUpper(string(e.f)): condition}})
	e.addTo(n, "web", world.TCP(8080, 80)).Pod.Serve("tcp", 80)
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	e.reaches(e.w.Client, "tcp", at, "elsewhere")
	e.reaches(e.w.Client, "tcp", nodePort, "elsewhere")
	e.reaches(e.w.Node, "tcp", at, "elsewhere")

	// A NodePort of the host port's number: IPVS comes after all translations.
	e.w.Node.Command("ipvsadm", "-A", "-t", e.node(8080).String(), "-s", "rr")
	e.w.Node.Command("ipvsadm", "-a", "-t", e.node(8080).String(), "-r", to, "-m")
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	for address, want := range map[netip.Addr]string{e.f.Node(): `"name": "ipvs"`, at.Addr(): `"code": "service-first"`} {
		out := e.w.Ctl("explain", "8080", "-o", "json", "--address", address.String(), "--from", e.f.Client().String())
		if !strings.Contains(string(out.Stdout), want) {
			e.Errorf("explain of %s: no %s\n%s%s", address, want, out.Stdout, out.Stderr)
		}
	}
}

// enslave puts an interface of the node into a VRF. Addresses of IPv6 are lost
// with that, and set again.
func (e *env) enslave(ifname string) {
	e.Helper()
	addresses := e.w.Node.Command("ip", "-o", "-6", "addr", "show", "dev", ifname, "scope", "global")
	e.w.Node.Command("ip", "link", "add", "vrf0", "type", "vrf", "table", "100")
	e.w.Node.Command("ip", "link", "set", "vrf0", "up")
	e.w.Node.Command("ip", "link", "set", ifname, "master", "vrf0")
	for line := range strings.Lines(addresses) {
		fields := strings.Fields(line)
		if out := e.w.Node.Command("ip", "-o", "-6", "addr", "show", "dev", ifname, "scope", "global"); !strings.Contains(out, fields[3]) {
			e.w.Node.AddAddress(ifname, fields[3])
		}
	}
}

// vrf has the client behind a VRF. Routes lead out of it to the pods, and back.
func vrf(e *env) {
	e.enslave("up0")
	e.web()
	pods, uplink, version := "10.244.0.0/24", "192.0.2.0/24", "-4"
	if e.f == world.V6 {
		pods, uplink, version = "fd00:10:244::/64", "2001:db8:1::/64", "-6"
	}
	e.w.Node.Command("ip", version, "route", "add", pods, "dev", "cni0", "table", "100")
	e.w.Node.Command("ip", version, "route", "add", uplink, "dev", "up0")
	e.reachesAs(e.w.Client, "tcp", e.node(8080), "web", e.f.Client())
	e.reaches(e.w.Elsewhere, "tcp", netip.AddrPortFrom(e.f.NodeFar(), 8080), "web")
}

// flowtable has a firewall that offloads flows. A connection goes on when it is
// offloaded, and a UDP flow follows the port to the next pod.
func flowtable(e *env) {
	a := e.add("first", world.TCP(8080, 80), world.UDP(8053, 53))
	a.Pod.Serve("udp", 53)
	e.w.NFT(`table inet fastpath {
	flowtable fast { hook ingress priority 0; devices = { up0, cni0 }; }
	chain forward { type filter hook forward priority 0; meta l4proto { tcp, udp } flow add @fast; }
}`)
	a.Pod.Echo(80)
	tcp, err := e.w.Client.Dial("tcp", netip.AddrPort{}, e.node(8080), answer.Timeout)
	if err != nil {
		e.Fatal(err)
	}
	defer tcp.Close()
	for i := range 20 {
		if err := tcp.Echoes(fmt.Sprintf("message %02d", i)); err != nil {
			e.Fatalf("message %d: %v", i, err)
		}
	}
	family := map[world.Family]string{world.V4: "ipv4", world.V6: "ipv6"}[e.f]
	if out := e.w.Node.Command("conntrack", "-L", "-f", family, "-p", "tcp"); !strings.Contains(out, "OFFLOAD") {
		e.Errorf("no flow is offloaded:\n%s", out)
	}
	flow, err := e.w.Client.Dial("udp", netip.AddrPort{}, e.node(8053), 0)
	if err != nil {
		e.Fatal(err)
	}
	defer flow.Close()
	for range 5 {
		if got, err := flow.Ask(10 * time.Second); err != nil || got.Server != "first" {
			e.Fatalf("the UDP flow: answered by %q, %v", got.Server, err)
		}
	}
	e.del(a)
	flow.Drain()
	e.add("second", world.UDP(8053, 53)).Pod.Serve("udp", 53)
	if got, err := flow.Ask(answer.Timeout); err != nil || got.Server != "second" {
		e.Errorf("the UDP flow after the pod was replaced: answered by %q, %v", got.Server, err)
	}
	e.w.NFT("delete table inet fastpath")
}
