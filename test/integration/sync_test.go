package integration

import (
	"github.com/hostport-cni/hostport/test/world"
)

// syncScenarios are about firewalls that restore what they once saved, the
// plugin's rules of that time included. No ADD can see that; hostportctl sync
// makes the node right.
func syncScenarios() []scenario {
	return []scenario{
		{name: "sync after an older ruleset was restored", report: "containernetworking/plugins 512", run: func(e *env) {
			e.webTo(e.net, "stays", 8081)
			gone := e.web()
			restore := e.snapshot()
			e.del(gone)
			later := e.webTo(e.net, "later", 8082)
			restore()
			e.checkFinds(later, "an older ruleset was restored")
			e.sync()
			e.w.Node.Serve("tcp", 8080)
			e.reaches(e.w.Client, "tcp", e.node(8081), "stays")
			e.reaches(e.w.Client, "tcp", e.node(8082), "later")
			e.reaches(e.w.Client, "tcp", e.node(8080), "node")
		}},
		{name: "sync after a flush", report: "containers/netavark 723", run: func(e *env) {
			e.web()
			e.removeOurs()
			e.sync()
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		}},
		{name: "sync of a node that is right changes nothing", run: func(e *env) {
			e.web()
			before := e.w.Ruleset()
			e.sync()
			e.sameRules("sync", before)
		}},
		{name: "a reload by nft is healed", report: "containers/netavark 723", backends: nftablesOnly, run: func(e *env) {
			e.web()
			e.reload(e.w.ListNFT())
			e.webTo(e.net, "trigger", 8082)
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.reaches(e.w.Client, "tcp", e.node(8082), "trigger")
		}},
	}
}

// sync runs hostportctl sync.
func (e *env) sync() {
	e.Helper()
	if out := e.w.Ctl("sync"); out.ExitCode != 0 {
		e.Fatalf("hostportctl sync: exit code %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
}

// snapshot saves the backend's rules with its own tool.
func (e *env) snapshot() (restore func()) {
	e.Helper()
	if e.w.Backend == world.NFTables {
		saved := e.w.ListNFT()
		return func() { e.reload(saved) }
	}
	saved := e.w.Rules(e.f)
	return func() { e.restore(saved) }
}
