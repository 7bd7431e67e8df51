package integration

import (
	"strings"

	"github.com/hostport-cni/hostport/test/world"
)

// reloadScenarios are about firewalls that restore what they once saved, the
// plugin's rules of that time included.
func reloadScenarios() []scenario {
	return []scenario{
		{name: "a reload by nft is healed", report: "containers/netavark 723", backends: nftablesOnly, reloads: true, run: func(e *env) {
			e.web()
			e.reload(e.w.ListNFT())
			e.webTo(e.net, "trigger", 8082)
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.reaches(e.w.Client, "tcp", e.node(8082), "trigger")
		}},
		{name: "a restored older ruleset lacks no pod after the next ADD", report: "containernetworking/plugins 512", reloads: true, run: func(e *env) {
			e.both("web", 8080)
			restore := e.snapshot()
			e.both("later", 8081)
			restore()
			e.both("trigger", 8082)
			e.served(map[uint16]string{8080: "web", 8081: "later", 8082: "trigger"})
		}},
		{name: "a restored older ruleset brings no dead pod back", report: "containernetworking/plugins 683", reloads: true, run: func(e *env) {
			before := e.w.Ruleset()
			stays := e.both("stays", 8081)
			old := e.both("old", 8080)
			restore := e.snapshot()
			e.del(old)
			restore()
			trigger := e.both("trigger", 8082)
			e.listens(8080)
			e.served(map[uint16]string{8080: "node", 8081: "stays", 8082: "trigger"})
			e.del(trigger)
			restore()
			next := e.both("new", 8080)
			e.served(map[uint16]string{8080: "new", 8081: "stays"})
			e.del(next)
			e.del(stays)
			e.sameRules("the last DEL", before)
		}},
		{name: "DEL after an older ruleset was restored", report: "containernetworking/plugins 683", reloads: true, run: func(e *env) {
			before := e.w.Ruleset()
			stays := e.webTo(e.net, "stays", 8081)
			restore := e.snapshot()
			a := e.web()
			restore()
			e.del(a)
			e.reaches(e.w.Client, "tcp", e.node(8081), "stays")
			e.del(stays)
			e.sameRules("the last DEL", before)
		}},
		{name: "the last DEL after an older ruleset was restored", report: "containernetworking/plugins 683", reloads: true, run: func(e *env) {
			before := e.w.Ruleset()
			gone := e.webTo(e.net, "gone", 8081)
			last := e.web()
			restore := e.snapshot()
			e.del(gone)
			restore()
			e.del(last)
			e.sameRules("the last DEL", before)
		}},
		{name: "an older ruleset of one family is restored", backends: iptablesOnly, run: func(e *env) {
			e.net = e.network(world.NetworkOptions{Families: world.Families})
			e.both("web", 8080)
			gone := e.both("gone", 8083)
			restore := e.snapshot()
			e.del(gone)
			e.both("later", 8081)
			restore()
			e.both("trigger", 8082)
			for range world.Families {
				e.listens(8083)
				e.served(map[uint16]string{8080: "web", 8081: "later", 8082: "trigger", 8083: "node"})
				e.f = e.f.Other()
			}
		}},
		{name: "an older ruleset of iptables that nft restores", report: "containers/netavark 723", backends: iptablesOnly[:1], run: restoredByNFT},
	}
}

// restoredByNFT saves and restores the rules of iptables with nft, which takes from them
// what iptables needs to read them. ADD says so and leaves the pods that are served
// alone; with the remedy of docs/errors.md, the next one writes the rules of all.
func restoredByNFT(e *env) {
	e.both("web", 8080)
	gone := e.both("gone", 8083)
	saved := e.w.ListNFT()
	e.del(gone)
	e.both("later", 8081)
	e.reload(saved)
	a, err := e.net.Add(e.w.NewPod("refused"), world.TCP(8082, 80))
	if err == nil || !strings.Contains(err.Error(), "table nat holds rules that only nft can show") {
		e.Errorf("ADD to rules that nft has loaded: %v", err)
	}
	a.MustDel(e)
	e.served(map[uint16]string{8080: "web"})
	e.w.NFT("delete table " + e.nftFamily() + " nat")
	if e.f == world.V4 {
		e.w.NFT("delete table ip raw")
	}
	e.both("trigger", 8082)
	e.listens(8083)
	e.served(map[uint16]string{8080: "web", 8081: "later", 8082: "trigger", 8083: "node"})
}

// listens makes the node answer on a port, over TCP and UDP.
func (e *env) listens(port uint16) {
	e.Helper()
	e.w.Node.ServeOn("tcp", e.node(port))
	e.w.Node.ServeOn("udp", e.node(port))
}

// both makes a pod that serves port 80 of TCP and UDP under one host port.
func (e *env) both(name string, port int) *world.Attachment {
	e.Helper()
	a := e.add(name, world.TCP(port, 80), world.UDP(port, 80))
	a.Pod.Serve("tcp", 80)
	a.Pod.Serve("udp", 80)
	return a
}

// served wants the ports of the node's address to lead to servers, over TCP and UDP.
func (e *env) served(servers map[uint16]string) {
	e.Helper()
	for port, server := range servers {
		e.reaches(e.w.Client, "tcp", e.node(port), server)
		e.reaches(e.w.Client, "udp", e.node(port), server)
	}
}

// snapshot saves the backend's rules with its own tool.
func (e *env) snapshot() (restore func()) { return e.w.Snapshot(e.f) }
