package integration

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// processScenarios are about what an invocation costs.
func processScenarios() []scenario {
	return []scenario{
		{name: "one iptables-restore a family and nothing else", run: func(e *env) {
			first := e.add("first", world.TCP(8080, 80))
			e.w.Started()
			e.steady(func() { e.web2() })
			second := e.live[1]
			e.steady(func() { e.del(second) })
			e.steady(func() { e.del(first) })
			e.steady(func() { e.web2() })
		}},
		{name: "one iptables-restore for each family of a dual-stack pod", families: v4Only, run: func(e *env) {
			n := e.network(world.NetworkOptions{Families: world.Families})
			e.addTo(n, "first", world.TCP(8080, 80), world.UDP(8080, 80))
			e.w.Started()
			a := e.addTo(n, "second", world.TCP(8081, 80), world.UDP(8081, 80))
			e.started("ADD", "iptables-restore", "ip6tables-restore")
			e.del(a)
			e.started("DEL", "iptables-restore", "ip6tables-restore")
		}},
		{name: "no port mappings cost nothing", run: withoutMappings},
		{
			name: "no program need be installed", report: "talos 11846, containernetworking/plugins 1280",
			backends: nftablesOnly, run: withoutPath,
		},
	}
}

// web2 is a second pod beside the one that has port 8080.
func (e *env) web2() {
	e.Helper()
	e.add("second", world.TCP(8081, 80), world.UDP(8081, 80), world.TCP(18081, 80))
}

// steady wants a step to start exactly the one tool of the family, or none on
// the nftables backend.
func (e *env) steady(step func()) {
	e.Helper()
	e.w.Started()
	step()
	tool := "iptables-restore"
	if e.f == world.V6 {
		tool = "ip6tables-restore"
	}
	e.started("the step", tool)
}

// started compares the names of the tools that have been started.
func (e *env) started(what string, want ...string) {
	e.Helper()
	if e.w.Backend == world.NFTables {
		want = nil
	}
	var got []string
	for _, line := range e.w.Started() {
		name, _, _ := strings.Cut(line, " ")
		got = append(got, name)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		e.Errorf("tools started by %s (-want +got):\n%s", what, diff)
	}
}

// withoutMappings sends the three ways to say "none". The result passes
// through unchanged, nothing is started, and no state is made.
func withoutMappings(e *env) {
	for name, capabilities := range map[string]map[string]any{
		"absent": nil,
		"null":   {"portMappings": nil},
		"empty":  {"portMappings": []world.Mapping{}},
	} {
		a, err := e.net.AddWith(e.w.NewPod(name), "eth0", capabilities)
		if err != nil {
			e.Fatalf("ADD with %s port mappings: %v", name, err)
		}
		out := e.w.Invoke(a.Invocation("ADD", nil))
		samePrevResult(e, a.Invocation("ADD", nil).Stdin, out)
		if err := a.Check(); err != nil {
			e.Errorf("CHECK with %s port mappings: %v", name, err)
		}
		if err := a.Del(); err != nil {
			e.Errorf("DEL with %s port mappings: %v", name, err)
		}
	}
	e.started("ADD, CHECK and DEL")
	if files, _ := filepath.Glob(e.w.DataDir + "*"); len(files) > 0 {
		e.Errorf("state was made: %v", files)
	}
	e.sameRules("ADD without port mappings", e.before)
}

// withoutPath runs every verb with an empty PATH. The chain's other plugins
// have run before.
func withoutPath(e *env) {
	a := e.add("web")
	a.Pod.Serve("tcp", 80)
	mappings := world.Config{"runtimeConfig": world.Config{"portMappings": []world.Mapping{world.TCP(8080, 80)}}}
	run := func(command string, changes world.Config) {
		e.Helper()
		i := a.Invocation(command, changes)
		i.Env = []string{"PATH="}
		if out := e.w.Invoke(i); out.ExitCode != 0 {
			e.Fatalf("%s with an empty PATH: %s%s", command, out.Stdout, out.Stderr)
		}
	}
	run("STATUS", nil)
	run("ADD", mappings)
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	run("CHECK", mappings)
	run("DEL", nil)
	e.w.Client.Silence(e, "tcp", e.node(8080))
	e.sameRules("ADD and DEL with an empty PATH", e.before)
}
