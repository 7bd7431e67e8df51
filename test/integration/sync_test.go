package integration

// syncScenarios are about what others do to the rules and hostportctl sync
// makes right at once. The next ADD would too.
func syncScenarios() []scenario {
	return []scenario{
		{name: "sync after an older ruleset was restored", report: "containernetworking/plugins 512", reloads: true, run: func(e *env) {
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
	}
}

// sync runs hostportctl sync.
func (e *env) sync() {
	e.Helper()
	if out := e.w.Ctl("sync"); out.ExitCode != 0 {
		e.Fatalf("hostportctl sync: exit code %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
}
