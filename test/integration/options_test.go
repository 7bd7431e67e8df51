package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/hostport-cni/hostport/test/world"
)

// optionScenarios are about the configuration keys, portmap's and our own.
func optionScenarios() []scenario {
	return []scenario{
		{name: "masqAll masquerades every client", run: func(e *env) {
			e.webWith(world.Config{"masqAll": true})
			e.reachesAs(e.w.Client, "tcp", e.node(8080), "web", e.f.Gateway())
		}},
		{name: "snat false masquerades nobody", run: func(e *env) {
			e.webWith(world.Config{"snat": false})
			neighbour := e.add("neighbour")
			e.reachesAs(e.w.Client, "tcp", e.node(8080), "web", e.f.Client())
			e.reachesAs(neighbour.Pod.Netns, "tcp", e.node(8080), "web", neighbour.Addr(e.f))
		}},
		{name: "snat false leaves 127/8 closed", families: v4Only, run: func(e *env) {
			e.webWith(world.Config{"snat": false})
			e.localnet("0")
		}},
		{name: "markMasqBit decides the mark", report: "containernetworking/plugins 770, cri-o 6772", backends: iptablesOnly, run: func(e *env) {
			a := e.webWith(world.Config{"markMasqBit": 5})
			if rules := e.w.Rules(e.f); !strings.Contains(rules, "0x20/0x20") || strings.Contains(rules, "0x2000") {
				e.Errorf("rules do not use mark 0x20 alone:\n%s", rules)
			}
			e.reachesAs(a.Pod.Netns, "tcp", e.node(8080), "web", e.f.Gateway())
			e.add("default-mark", world.TCP(8081, 80)).Pod.Serve("tcp", 80)
			e.reaches(e.live[1].Pod.Netns, "tcp", e.node(8081), "default-mark")
		}},
		{name: "externalSetMarkChain masquerades by another's mark", backends: iptablesOnly, run: externalChain},
		{name: "externalSetMarkChain that does not exist", backends: iptablesOnly, run: func(e *env) {
			n := e.network(world.NetworkOptions{Hostport: world.Config{"externalSetMarkChain": "KUBE-MARK-MASQ"}})
			a, err := n.Add(e.w.NewPod("web"), world.TCP(8080, 80))
			cniErr, ok := errors.AsType[*types.Error](err)
			if !ok || !strings.Contains(cniErr.Msg+cniErr.Details, "KUBE-MARK-MASQ") {
				e.Errorf("ADD: %v, want a CNI error that names the chain", err)
			}
			e.sameRules("a refused ADD", e.before)
			a.MustDel(e)
			// The port is not held by the pod that could not be added.
			e.web()
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		}},
		{name: "portmap's keys without a backend mean iptables, also beside kube-proxy", backends: iptablesOnly, run: besideKubeProxy},
		{name: "markMasqBit on nftables has no effect", backends: nftablesOnly, run: func(e *env) {
			a := e.webWith(world.Config{"markMasqBit": 5})
			rules := e.w.Ruleset()
			e.reachesAs(a.Pod.Netns, "tcp", e.node(8080), "web", e.f.Gateway())
			e.reachesAs(e.w.Client, "tcp", e.node(8080), "web", e.f.Client())
			for _, bit := range []any{7, nil} {
				e.invoke(a.Invocation("ADD", world.Config{"markMasqBit": bit}))
				e.sameRules(fmt.Sprintf("ADD with markMasqBit %v", bit), rules)
			}
			if text := e.w.Rules(e.f); strings.Contains(text, "mark") {
				e.Errorf("rules use packet marks:\n%s", text)
			}
		}},
		{name: "no packet marks", report: "containernetworking/plugins 770, cri-o 6772", backends: nftablesOnly, run: func(e *env) {
			e.busy()
			if rules := e.w.Rules(e.f); strings.Contains(rules, "mark") {
				e.Errorf("rules use packet marks:\n%s", rules)
			}
		}},
	}
}

// conditionScenarios are about conditionsV4 and conditionsV6.
func conditionScenarios() []scenario {
	return []scenario{
		{name: "a condition on the client", run: conditionClient},
		{name: "a condition of one pod is no other's", run: func(e *env) {
			n := e.network(world.NetworkOptions{Hostport: e.condition("saddr", true, e.f.Client())})
			e.addTo(n, "closed", world.TCP(8080, 80)).Pod.Serve("tcp", 80)
			e.add("open", world.TCP(8081, 80)).Pod.Serve("tcp", 80)
			e.w.Node.Serve("tcp", 8080)
			e.reaches(e.w.Client, "tcp", e.node(8080), "node")
			e.reaches(e.w.Client, "tcp", e.node(8081), "open")
		}},
		{name: "a condition on the address of the node", run: func(e *env) {
			e.webWith(e.condition("daddr", false, e.f.NodeSecond()))
			e.w.Node.Serve("tcp", 8080)
			e.reaches(e.w.Client, "tcp", netip.AddrPortFrom(e.f.NodeSecond(), 8080), "web")
			e.reaches(e.w.Client, "tcp", e.node(8080), "node")
		}},
		{name: "a condition on the interface", run: conditionInterface},
		{name: "portmap's word lists on nftables", backends: nftablesOnly, run: func(e *env) {
			e.w.Node.Serve("tcp", 8080)
			for backend, words := range map[any][]string{
				"nftables": {e.nftFamily(), "saddr", e.f.Client().String()},
				nil:        {e.nftFamily(), "saddr", "!=", e.f.Elsewhere().String(), "iifname", "up0"},
			} {
				a := e.webWith(world.Config{"backend": backend, "conditions" + strings.ToUpper(string(e.f)): words})
				e.reachesAs(e.w.Client, "tcp", e.node(8080), "web", e.f.Client())
				e.reaches(e.w.Elsewhere, "tcp", e.node(8080), "node")
				e.checks(a)
				e.del(a)
			}
		}},
	}
}

// ownOptionScenarios are about the keys that portmap does not have.
func ownOptionScenarios() []scenario {
	return []scenario{
		{name: "hostListener deny refuses a port that is listened on", run: denyListener},
		{name: "hostListener ignore does not look", run: func(e *env) {
			e.w.Node.Serve("tcp", 8080)
			e.web()
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.webTo(e.network(world.NetworkOptions{Hostport: world.Config{"hostListener": "ignore"}}), "explicit", 8081)
		}},
		{name: "one line a verb in the log file", run: logFile},
		{name: "nothing on stderr without a log file", run: func(e *env) {
			a := e.web()
			for _, verb := range []string{"ADD", "CHECK", "DEL"} {
				if out := e.invoke(a.Invocation(verb, nil)); len(out.Stderr) > 0 {
					e.Errorf("%s writes to stderr: %s", verb, out.Stderr)
				}
			}
			e.forget(a)
		}},
		{name: "the backend chosen by default", run: defaultBackend},
	}
}

// webWith is web on a network with other keys in the plugin's configuration.
func (e *env) webWith(config world.Config) *world.Attachment {
	e.Helper()
	return e.webTo(e.network(world.NetworkOptions{Hostport: config}), "web", 8080)
}

// webTo makes a pod that serves TCP port 80.
func (e *env) webTo(n *world.Network, name string, port int) *world.Attachment {
	e.Helper()
	a := e.addTo(n, name, world.TCP(port, 80))
	a.Pod.Serve("tcp", 80)
	return a
}

// condition is the configuration key for one condition on an address, in the
// backend's own syntax.
func (e *env) condition(field string, not bool, addr netip.Addr) world.Config {
	key := "conditions" + strings.ToUpper(string(e.f))
	cidr := netip.PrefixFrom(addr, addr.BitLen()).String()
	if e.w.Backend == world.NFTables {
		ip, operator := "ip", ""
		if e.f == world.V6 {
			ip = "ip6"
		}
		if not {
			operator = "!= "
		}
		return world.Config{key: []string{fmt.Sprintf("%s %s %s%s", ip, field, operator, cidr)}}
	}
	var words []string
	if not {
		words = append(words, "!")
	}
	return world.Config{key: append(words, "-"+field[:1], cidr)}
}

// conditionClient keeps one client out. It finds what else there is.
func conditionClient(e *env) {
	e.webWith(e.condition("saddr", true, e.f.Client()))
	e.w.Node.Serve("tcp", 8080)
	e.reaches(e.w.Client, "tcp", e.node(8080), "node")
	e.reachesAs(e.w.Elsewhere, "tcp", e.node(8080), "web", e.f.Elsewhere())
}

// conditionInterface lets in what comes over one interface.
func conditionInterface(e *env) {
	words := []string{"-i", "up0"}
	if e.w.Backend == world.NFTables {
		words = []string{`iifname "up0"`}
	}
	e.webWith(world.Config{"conditions" + strings.ToUpper(string(e.f)): words})
	e.w.Node.Serve("tcp", 8080)
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	e.reaches(e.w.Elsewhere, "tcp", e.node(8080), "node")
}

// besideKubeProxy has kube-proxy's table of nftables on the node, which makes the
// plugin choose nftables by itself. What only iptables understands makes it choose
// iptables, and say what that means beside kube-proxy.
func besideKubeProxy(e *env) {
	e.w.NFT("add table " + e.nftFamily() + " kube-proxy")
	e.markMasq()
	e.foreign()
	e.w.Node.Serve("tcp", 8080)
	for _, tc := range []struct {
		config world.Config
		mark   string // the only one in the rules
	}{
		{world.Config{"markMasqBit": 5}, "0x20/0x20"},
		{world.Config{"externalSetMarkChain": "KUBE-MARK-MASQ"}, "0x4000/0x4000"},
		{e.condition("saddr", true, e.f.Elsewhere()), "0x2000/0x2000"},
	} {
		tc.config["backend"] = nil
		a := e.webWith(tc.config)
		if found := e.onBackends(); found != "iptables" {
			e.Errorf("%v: programmed on %s", tc.config, found)
		}
		again := e.invoke(a.Invocation("ADD", nil))
		status := e.invoke(world.Invocation{Command: "STATUS", Stdin: e.w.Stdin(tc.config)})
		for _, out := range []world.Output{again, status} {
			if !strings.Contains(string(out.Stderr), "kube-proxy is in nftables mode") {
				e.Errorf("%v: no warning in %q", tc.config, out.Stderr)
			}
		}
		for _, mark := range []string{"0x20/0x20", "0x2000/0x2000"} {
			if used := strings.Contains(e.w.Rules(e.f), mark); used != (mark == tc.mark) {
				e.Errorf("%v: mark %s is used: %v", tc.config, mark, used)
			}
		}
		e.reachesAs(a.Pod.Netns, "tcp", e.node(8080), "web", e.f.Gateway())
		e.reachesAs(e.w.Client, "tcp", e.node(8080), "web", e.f.Client())
		if _, conditions := tc.config["conditions"+strings.ToUpper(string(e.f))]; conditions {
			e.reaches(e.w.Elsewhere, "tcp", e.node(8080), "node")
		}
		e.del(a)
		e.sameRules(fmt.Sprintf("DEL with %v", tc.config), e.before)
	}
}

// markMasq has what kube-proxy has for clients to masquerade.
func (e *env) markMasq() {
	e.Helper()
	e.w.IptablesRestore(e.f, "*nat\n:KUBE-MARK-MASQ - [0:0]\n-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n"+
		"-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE\nCOMMIT\n")
}

// externalChain jumps to a chain of kube-proxy's, which sets a mark that is
// masqueraded elsewhere.
func externalChain(e *env) {
	e.markMasq()
	e.foreign()
	a := e.webWith(world.Config{"externalSetMarkChain": "KUBE-MARK-MASQ"})
	e.reachesAs(a.Pod.Netns, "tcp", e.node(8080), "web", e.f.Gateway())
	e.reachesAs(e.w.Client, "tcp", e.node(8080), "web", e.f.Client())
	if rules := e.w.Rules(e.f); strings.Contains(rules, "0x2000") {
		e.Errorf("the rules have a mark of their own:\n%s", rules)
	}
}

// denyListener starts processes on the node before the pod.
func denyListener(e *env) {
	e.w.Node.Serve("tcp", 8080)
	e.w.Node.ServeOn("udp", netip.AddrPortFrom(e.f.Node(), 8053))
	n := e.network(world.NetworkOptions{Hostport: world.Config{"hostListener": "deny"}})
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		e.Fatal(err)
	}
	own := regexp.MustCompile(`process \d+ \("` + regexp.QuoteMeta(strings.TrimSpace(string(comm))) + `"\)`)
	for _, m := range []world.Mapping{world.TCP(8080, 80), world.TCP(8080, 80).On(e.f.NodeSecond()), world.UDP(8053, 53)} {
		a, err := n.Add(e.w.NewPod("refused"), m)
		cniErr, ok := errors.AsType[*types.Error](err)
		port := fmt.Sprintf("%d/%s", m.HostPort, m.Protocol)
		// A child of this process has its name and its sockets until it executes
		// its program, and may be the one that is named.
		if !ok || !strings.Contains(cniErr.Msg, port) || !own.MatchString(cniErr.Msg) {
			e.Errorf("ADD: %v, want a CNI error that names %s and this process", err, port)
		}
		e.sameRules("a refused ADD", e.before)
		a.MustDel(e)
	}
	// Other ports, protocols and addresses than those listened on are free.
	a := e.addTo(n, "web", world.TCP(8053, 80), world.UDP(8080, 81), world.UDP(8053, 53).On(e.f.NodeSecond()))
	a.Pod.Serve("tcp", 80)
	e.reaches(e.w.Client, "tcp", e.node(8053), "web")
}

// logFile wants one line for ADD, for a refused ADD and for DEL.
func logFile(e *env) {
	file := filepath.Join(e.w.ConfDir, "hostport.log")
	n := e.network(world.NetworkOptions{Hostport: world.Config{"logFile": file, "logLevel": "info"}})
	lines := func() []string {
		e.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			e.Fatal(err)
		}
		if err := os.Truncate(file, 0); err != nil {
			e.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
	wantLine := func(what string, words ...string) {
		e.Helper()
		got := lines()
		if len(got) != 1 {
			e.Errorf("%s: %d lines in the log, want one: %q", what, len(got), got)
		}
		for _, word := range append(words, "duration=", "eth0") {
			if !strings.Contains(got[0], word) {
				e.Errorf("%s: the log line lacks %q: %s", what, word, got[0])
			}
		}
	}
	a := e.webTo(n, "web", 8080)
	wantLine("ADD", "ADD", a.Pod.ContainerID, "8080/tcp", "level=INFO")
	refused, err := n.Add(e.w.NewPod("refused"), world.TCP(8080, 80))
	if err == nil {
		e.Fatal("a held port was given away")
	}
	wantLine("a refused ADD", "ADD", refused.Pod.ContainerID, "8080/tcp", "level=ERROR", "default/web")
	if err := a.Check(); err != nil {
		e.Error(err)
	}
	wantLine("CHECK", "CHECK", a.Pod.ContainerID, "8080/tcp")
	e.del(a)
	wantLine("DEL", "DEL", a.Pod.ContainerID, "8080/tcp")
}

// defaultBackend leaves the choice to the plugin: iptables where there is one,
// else nftables.
func defaultBackend(e *env) {
	n := e.network(world.NetworkOptions{Hostport: world.Config{"backend": nil}})
	withTools := e.webTo(n, "web", 8080)
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	onIptables := strings.Contains(e.w.ListNFT(), "CNI-HP-DNAT") || e.w.Backend == world.IptablesLegacy
	if !onIptables || strings.Contains(e.w.ListNFT(), "table inet hostport") {
		e.Errorf("iptables was not chosen:\n%s", e.w.ListNFT())
	}
	e.del(withTools)
	for _, tool := range allTools {
		e.w.RemoveTool(tool)
	}
	a := e.webTo(n, "without", 8080)
	e.reaches(e.w.Client, "tcp", e.node(8080), "without")
	if !strings.Contains(e.w.ListNFT(), "table inet hostport") {
		e.Errorf("nftables was not chosen:\n%s", e.w.ListNFT())
	}
	e.del(a)
	e.sameRules("DEL", e.before)
}
