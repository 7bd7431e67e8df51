package integration

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/hostport-cni/hostport/test/world"
)

// foreignScenarios are about living beside kube-proxy and other owners of NAT
// rules: theirs come first, and what they redirect is theirs.
func foreignScenarios() []scenario {
	return []scenario{
		{name: "a Service wins over a host port", report: "kubernetes 66103, siderolabs/talos 9223", run: func(e *env) {
			e.service(8080)
			e.web()
			e.reaches(e.w.Client, "tcp", e.node(8080), "elsewhere")
			e.reaches(e.w.Node, "tcp", e.node(8080), "elsewhere")
		}},
		{name: "a Service still wins after a repair", report: "kubernetes 66103", run: func(e *env) {
			e.service(8080)
			e.web()
			e.removeOurs()
			e.reaches(e.w.Client, "tcp", e.node(8080), "elsewhere")
			e.add("trigger", world.TCP(8081, 80)).Pod.Serve("tcp", 80)
			e.reaches(e.w.Client, "tcp", e.node(8081), "trigger")
			e.reaches(e.w.Client, "tcp", e.node(8080), "elsewhere")
			e.reaches(e.w.Node, "tcp", e.node(8080), "elsewhere")
		}},
		{name: "a Service that comes later wins after kube-proxy put itself first", run: func(e *env) {
			e.web()
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.w.Elsewhere.Serve("tcp", 9000)
			to := netip.AddrPortFrom(e.f.Elsewhere(), 9000)
			e.w.IptablesRestore(e.f, fmt.Sprintf("*nat\n:KUBE-SERVICES - [0:0]\n-I PREROUTING 1 -j KUBE-SERVICES\n"+
				"-A KUBE-SERVICES -d %s -p tcp --dport 8080 -j DNAT --to-destination %s\nCOMMIT\n", e.f.Node(), to))
			e.reaches(e.w.Client, "tcp", e.node(8080), "elsewhere")
			e.add("other", world.TCP(8081, 80))
			e.reaches(e.w.Client, "tcp", e.node(8080), "elsewhere")
			e.w.IptablesRestore(e.f, "*nat\n-D PREROUTING -j KUBE-SERVICES\n-F KUBE-SERVICES\n-X KUBE-SERVICES\nCOMMIT\n")
		}},
		{
			name:   "another's DNAT to the same pod and port keeps the client's address",
			report: "kubernetes 29742, containernetworking/plugins 770", run: foreignDNAT,
		},
		{name: "another's packet mark survives", report: "containernetworking/plugins 770, cri-o 6772", run: foreignMark},
		{name: "rules of others are left as they are", report: "containernetworking/plugins 770", run: func(e *env) {
			e.service(9999)
			e.w.IptablesRestore(e.f, "*filter\n-A FORWARD -m comment --comment \"a firewall\" -p tcp --dport 25 -j DROP\nCOMMIT\n")
			e.w.NFT("table inet firewall { chain forward { type filter hook forward priority filter; tcp dport 26 drop; }; }")
			e.foreign()
			e.web()
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		}},
		{name: "IPVS Services on local addresses, kept out by a condition", run: ipvs},
		{name: "thousands of foreign rules are not read", report: "antrea 1499", run: manyForeignRules},
	}
}

// service sets a rule as kube-proxy in its iptables mode has it: the node's
// port leads to a server that is not a pod of ours.
func (e *env) service(port uint16) {
	e.Helper()
	e.w.Elsewhere.Serve("tcp", 9000)
	to := netip.AddrPortFrom(e.f.Elsewhere(), 9000)
	e.w.IptablesRestore(e.f, fmt.Sprintf("*nat\n:KUBE-SERVICES - [0:0]\n"+
		"-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n"+
		"-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n"+
		"-A KUBE-SERVICES -d %s -p tcp --dport %d -j DNAT --to-destination %s\nCOMMIT\n", e.f.Node(), port, to))
	e.foreign()
}

// removeOurs loses every rule of the plugin and nothing else.
func (e *env) removeOurs() {
	e.Helper()
	if e.w.Backend == world.NFTables {
		e.w.NFT("delete table inet hostport")
		return
	}
	var script strings.Builder
	var chains []string
	for line := range strings.Lines(e.w.Rules(e.f)) {
		switch {
		case strings.HasPrefix(line, "*"), strings.HasPrefix(line, "COMMIT"):
			for _, c := range chains {
				fmt.Fprintf(&script, "-X %s\n", c)
			}
			chains = nil
			script.WriteString(line)
		case strings.HasPrefix(line, ":CNI-HP"):
			chain := strings.Fields(line)[0][1:]
			chains = append(chains, chain)
			fmt.Fprintf(&script, "-F %s\n", chain)
		case strings.HasPrefix(line, "-A ") && !strings.HasPrefix(line, "-A CNI-HP") && strings.Contains(line, "CNI-HP"):
			fmt.Fprintf(&script, "-D%s", strings.TrimPrefix(line, "-A"))
		}
	}
	e.w.IptablesRestore(e.f, script.String())
	if strings.Contains(e.w.Rules(e.f), "CNI-HP") {
		e.Fatalf("rules were not removed:\n%s", e.w.Rules(e.f))
	}
}

// foreignDNAT reaches the pod through a rule of somebody else. Masquerading
// there is somebody else's decision, also for a client in the pod's subnet.
func foreignDNAT(e *env) {
	a := e.web()
	neighbour := e.add("neighbour")
	to := netip.AddrPortFrom(a.Addr(e.f), 80)
	rule := fmt.Sprintf("PREROUTING -d %s -p tcp --dport 30080 -j DNAT --to-destination %s\nCOMMIT\n", e.f.Node(), to)
	e.w.IptablesRestore(e.f, "*nat\n-A "+rule)
	e.reachesAs(e.w.Client, "tcp", e.node(30080), "web", e.f.Client())
	e.reachesAs(neighbour.Pod.Netns, "tcp", e.node(30080), "web", neighbour.Addr(e.f))
	e.reachesAs(e.w.Client, "tcp", e.node(8080), "web", e.f.Client())
	e.w.IptablesRestore(e.f, "*nat\n-D "+rule)
}

// foreignMark drops what has lost a mark that somebody else set, on the path
// where the iptables backend sets its own.
func foreignMark(e *env) {
	const rules = `*mangle
%[1]s PREROUTING -p tcp --dport 8080 -j MARK --set-xmark 0x1/0x1
COMMIT
*filter
%[1]s FORWARD -p tcp --dport 80 -m mark ! --mark 0x1/0x1 -j DROP
COMMIT
`
	a := e.web()
	e.w.IptablesRestore(e.f, fmt.Sprintf(rules, "-A"))
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	e.reaches(a.Pod.Netns, "tcp", e.node(8080), "web")
	e.w.IptablesRestore(e.f, fmt.Sprintf(rules, "-D"))
}

// ipvs has Service addresses on an interface of the node, as kube-proxy's IPVS
// mode has. A condition keeps the host port off them.
func ipvs(e *env) {
	service, cidr := "10.96.0.10/12", "10.96.0.0/12"
	if e.f == world.V6 {
		service, cidr = "fd00:10:96::a/108", "fd00:10:96::/108"
	}
	e.w.Node.Command("ip", "link", "add", "kube-ipvs0", "type", "bridge")
	e.w.Node.Command("ip", "link", "set", "kube-ipvs0", "up")
	e.w.Node.AddAddress("kube-ipvs0", service)
	to := netip.AddrPortFrom(netip.MustParsePrefix(service).Addr(), 8080)
	e.w.Node.ServeOn("tcp", to)

	a := e.web()
	e.reaches(e.w.Client, "tcp", to, "web")
	e.del(a)

	condition := []string{"!", "-d", cidr}
	if e.w.Backend == world.NFTables {
		condition = []string{"ip daddr != " + cidr}
		if e.f == world.V6 {
			condition = []string{"ip6 daddr != " + cidr}
		}
	}
	n := e.network(world.NetworkOptions{Hostport: world.Config{"conditions" + strings.ToUpper(string(e.f)): condition}})
	e.addTo(n, "kept-out", world.TCP(8080, 80)).Pod.Serve("tcp", 80)
	e.reaches(e.w.Client, "tcp", to, "node")
	e.reaches(e.w.Client, "tcp", e.node(8080), "kept-out")
}

// manyForeignRules shows that ADD and DEL start what they start on an empty
// node: nothing reads the table.
func manyForeignRules(e *env) {
	var script strings.Builder
	script.WriteString("*nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\n")
	for i := range 2000 {
		fmt.Fprintf(&script, "-A KUBE-SERVICES -p tcp --dport %d -m comment --comment \"Service %d\" -j RETURN\n", 30000+i, i)
	}
	script.WriteString("COMMIT\n")
	e.w.IptablesRestore(e.f, script.String())
	e.foreign()
	e.add("warm", world.TCP(8081, 81))
	e.steady(func() { e.web() })
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	e.steady(func() { e.del(e.live[1]) })
}
