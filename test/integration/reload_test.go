package integration

import (
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
			e.web()
			restore := e.snapshot()
			e.webTo(e.net, "later", 8081)
			restore()
			e.webTo(e.net, "trigger", 8082)
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.reaches(e.w.Client, "tcp", e.node(8081), "later")
			e.reaches(e.w.Client, "tcp", e.node(8082), "trigger")
		}},
		{name: "a restored older ruleset brings no dead pod back", report: "containernetworking/plugins 683", reloads: true, run: func(e *env) {
			before := e.w.Ruleset()
			stays := e.webTo(e.net, "stays", 8081)
			old := e.web()
			restore := e.snapshot()
			e.del(old)
			restore()
			next := e.webTo(e.net, "new", 8080)
			e.reaches(e.w.Client, "tcp", e.node(8080), "new")
			e.reaches(e.w.Client, "tcp", e.node(8081), "stays")
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
	}
}

// snapshot saves the backend's rules with its own tool.
func (e *env) snapshot() (restore func()) {
	e.Helper()
	if e.w.Backend == world.NFTables {
		saved := e.w.ListNFT()
		return func() { e.reload(saved) }
	}
	saved := e.w.Save(e.f)
	return func() { e.restore(saved) }
}
