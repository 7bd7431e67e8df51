package integration

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// nftablesScenarios are about what the nftables backend alone promises.
func nftablesScenarios() []scenario {
	return []scenario{
		{name: "a steady ADD adds elements alone", backends: nftablesOnly, run: func(e *env) {
			first := e.add("first", world.TCP(8080, 80))
			_, handles := e.nftRules()
			second := e.busyAt("second", 9000)
			e.sameHandles("the second pod's ADD", handles)
			e.del(second)
			e.sameHandles("the second pod's DEL", handles)
			e.invoke(first.Invocation("ADD", nil))
			e.sameHandles("ADD again", handles)
		}},
		{name: "a saved ruleset can be loaded", backends: nftablesOnly, reloads: true, run: func(e *env) {
			name := strings.Repeat("a-long-name.", 21)
			n := e.network(world.NetworkOptions{Name: strings.Repeat("long", 20), Hostport: e.condition("saddr", true, e.f.NodeSecond())})
			p := e.w.NewPod("web")
			p.Name = name
			a, err := n.Add(p, world.TCP(8080, 80), world.UDP(8081, 81), world.TCP(30000, 82).On(e.f.Node()))
			if err != nil {
				e.Fatal(err)
			}
			e.live = append(e.live, a)
			p.Serve("tcp", 80)
			before := e.w.Ruleset()
			e.reload(e.w.ListNFT())
			e.sameRules("a reload", before)
			e.checks(a)
			e.reaches(e.w.Client, "tcp", e.node(8080), name)
			e.addTo(n, "other", world.TCP(8082, 80))
		}},
	}
}

// nftablesNeighbourScenarios are about other users of nftables.
func nftablesNeighbourScenarios() []scenario {
	return []scenario{
		{name: "kube-proxy's nftables mode wins, registered before us", report: "kubernetes 66103", backends: nftablesOnly, run: func(e *env) {
			e.nftService()
			e.foreign()
			e.web()
			e.reaches(e.w.Client, "tcp", e.node(8080), "elsewhere")
			e.reaches(e.w.Node, "tcp", e.node(8080), "elsewhere")
		}},
		{name: "kube-proxy's nftables mode wins, registered after us", report: "kubernetes 66103", backends: nftablesOnly, run: func(e *env) {
			e.web()
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.nftService()
			e.reaches(e.w.Client, "tcp", e.node(8080), "elsewhere")
			e.reaches(e.w.Node, "tcp", e.node(8080), "elsewhere")
			e.w.NFT("delete table " + e.nftFamily() + " kube-proxy")
		}},
		{name: "kube-proxy on legacy iptables wins", report: "kubernetes 66103", backends: nftablesOnly, run: func(e *env) {
			e.w.Elsewhere.Serve("tcp", 9000)
			rule := fmt.Sprintf("PREROUTING -d %s -p tcp --dport 8080 -j DNAT --to-destination %s\nCOMMIT\n",
				e.f.Node(), netip.AddrPortFrom(e.f.Elsewhere(), 9000))
			restore := "iptables-restore"
			if e.f == world.V6 {
				restore = "ip6tables-restore"
			}
			e.web()
			if _, err := e.w.Node.TryCommand("*nat\n-A "+rule, "xtables-legacy-multi", restore, "--wait", "10", "--noflush"); err != nil {
				e.Fatal(err)
			}
			e.reaches(e.w.Client, "tcp", e.node(8080), "elsewhere")
			if _, err := e.w.Node.TryCommand("*nat\n-D "+rule, "xtables-legacy-multi", restore, "--wait", "10", "--noflush"); err != nil {
				e.Fatal(err)
			}
		}},
		{
			name: "a foreign nftables DNAT keeps the client's address", report: "containernetworking/plugins 770", backends: nftablesOnly,
			run: func(e *env) {
				a := e.web()
				neighbour := e.add("neighbour")
				e.w.NFT(fmt.Sprintf("table %s foreign { chain pre { type nat hook prerouting priority dstnat; tcp dport 30080 dnat to %s; }; }",
					e.nftFamily(), netip.AddrPortFrom(a.Addr(e.f), 80)))
				e.reachesAs(e.w.Client, "tcp", e.node(30080), "web", e.f.Client())
				e.reachesAs(neighbour.Pod.Netns, "tcp", e.node(30080), "web", neighbour.Addr(e.f))
				e.w.NFT("delete table " + e.nftFamily() + " foreign")
			},
		},
		{name: "every form of a condition", backends: nftablesOnly, run: conditionForms},
		{name: "a condition on a packet mark", backends: nftablesOnly, run: func(e *env) {
			e.w.NFT(fmt.Sprintf("table %s marks { chain pre { type filter hook prerouting priority mangle; %s saddr %s meta mark set 0x10; }; }",
				e.nftFamily(), e.nftFamily(), e.f.Client()))
			e.foreign()
			e.webWith(world.Config{"conditions" + strings.ToUpper(string(e.f)): []string{"meta mark 0x10"}})
			e.w.Node.Serve("tcp", 8080)
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.reaches(e.w.Elsewhere, "tcp", e.node(8080), "node")
		}},
	}
}

// busyAt is a pod with mappings of every kind, as busy, from a port on.
func (e *env) busyAt(name string, port int) *world.Attachment {
	e.Helper()
	return e.add(name, world.TCP(port, 80), world.UDP(port+1, 81), world.TCP(port+2, 82), world.TCP(port+300, 83))
}

// sameHandles wants every rule to be the one that it was, and none to be new.
func (e *env) sameHandles(after string, want map[string][]string) {
	e.Helper()
	_, got := e.nftRules()
	if diff := cmp.Diff(want, got); diff != "" {
		e.Errorf("handles of the rules after %s (-want +got):\n%s", after, diff)
	}
}

// nftFamily is the name of the family in nft's language.
func (e *env) nftFamily() string {
	if e.f == world.V6 {
		return "ip6"
	}
	return "ip"
}

// nftService sets rules as kube-proxy in its nftables mode has them: a table
// of the family, with nat chains at priority dstnat.
func (e *env) nftService() {
	e.Helper()
	e.w.Elsewhere.Serve("tcp", 9000)
	e.w.NFT(fmt.Sprintf(`table %[1]s kube-proxy {
	map service-ips {
		type %[2]s . inet_proto . inet_service : verdict
		elements = { %[3]s . tcp . 8080 : goto service }
	}
	chain service { meta l4proto tcp dnat to %[4]s; }
	chain services { %[1]s daddr . meta l4proto . th dport vmap @service-ips; }
	chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
	chain nat-output { type nat hook output priority -100; jump services; }
}`, e.nftFamily(), map[world.Family]string{world.V4: "ipv4_addr", world.V6: "ipv6_addr"}[e.f], e.f.Node(),
		netip.AddrPortFrom(e.f.Elsewhere(), 9000)))
}

// conditionForms adds and deletes a pod with each form that people use.
// CHECK agrees with it, also after the ruleset was saved and loaded.
func conditionForms(e *env) {
	ip, cidr, addr := "ip", "10.0.0.0/8", "192.0.2.200"
	if e.f == world.V6 {
		ip, cidr, addr = "ip6", "fd00::/8", "2001:db8:1::200"
	}
	for _, form := range []string{
		ip + " saddr != " + addr, ip + " saddr != " + cidr, ip + " daddr != " + cidr, ip + " daddr " + e.f.Node().String(),
		`iifname "up0"`, "iifname up0", `iifname != "cni0"`, "meta mark 0", "meta mark != 0x4000", "meta mark & 0x4000 == 0x0",
	} {
		n := e.network(world.NetworkOptions{Hostport: world.Config{"conditions" + strings.ToUpper(string(e.f)): []string{form}}})
		a, err := n.Add(e.w.NewPod("web"), world.TCP(8080, 80), world.TCP(30000, 80).On(e.f.Node()))
		if err != nil {
			e.Errorf("condition %q: %v", form, err)
			continue
		}
		a.Pod.Serve("tcp", 80)
		e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		e.reaches(e.w.Client, "tcp", e.node(30000), "web")
		e.checks(a)
		if world.NFTRestores() {
			e.reload(e.w.ListNFT())
			e.checks(a)
		}
		a.MustDel(e)
		e.sameRules("DEL with condition "+form, e.before)
	}
}
