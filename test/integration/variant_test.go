package integration

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/test/world"
)

// variantScenarios are about the iptables command that leads to another variant
// than it did (update-alternatives).
func variantScenarios() []scenario {
	firsts := map[string]func(e *env, goes, stays *world.Attachment){
		"DEL": func(e *env, goes, _ *world.Attachment) { e.del(goes) },
		"GC": func(e *env, goes, stays *world.Attachment) {
			e.gc(world.Config{"cni.dev/valid-attachments": valid(stays)})
			e.forget(goes)
		},
		"hostportctl sync": func(e *env, goes, _ *world.Attachment) {
			e.sync()
			e.checks(e.live...)
			e.del(goes)
		},
	}
	var out []scenario
	for verb, first := range firsts {
		out = append(out, scenario{name: "iptables changes its variant, then " + verb, backends: iptablesOnly, run: func(e *env) {
			e.w.InstallVariants()
			goes, stays := e.both("goes", 8080), e.both("stays", 8081)
			e.w.UseVariant(otherVariant(e.w.Backend))
			e.served(map[uint16]string{8080: "goes", 8081: "stays"})
			first(e, goes, stays)
			e.unnamed(goes, verb)
			e.listens(8080)
			e.served(map[uint16]string{8080: "node", 8081: "stays"})
			e.without(stays, "with the last pod")
			e.sameRules("DEL of every pod in another variant", e.before)
		}})
	}
	return append(
		out,
		scenario{name: "iptables changes its variant and back", backends: iptablesOnly, run: func(e *env) {
			e.w.InstallVariants()
			a, b := e.web(), e.webTo(e.net, "b", 8081)
			e.w.UseVariant(otherVariant(e.w.Backend))
			c := e.webTo(e.net, "c", 8082)
			for port, name := range map[uint16]string{8080: "web", 8081: "b", 8082: "c"} {
				e.reaches(e.w.Client, "tcp", e.node(port), name)
			}
			e.without(a, "in the other variant")
			e.w.UseVariant(e.w.Backend)
			e.without(b, "back in the first variant")
			e.reaches(e.w.Client, "tcp", e.node(8082), "c")
			e.without(c, "with the last pod")
			e.sameRules("DEL of every pod in changing variants", e.before)
		}},
		scenario{name: "iptables changes its variant and the rules are moved along", backends: iptablesOnly, run: func(e *env) {
			e.w.InstallVariants()
			goes, stays := e.both("goes", 8080), e.both("stays", 8081)
			e.moveRules()
			e.without(goes, "of rules in both variants")
			e.listens(8080)
			e.served(map[uint16]string{8080: "node", 8081: "stays"})
			e.without(stays, "with the last pod")
			e.sameRules("DEL of every pod in another variant", e.before)
		}},
		scenario{name: "rules are moved to the other variant, and the tools of the earlier one fail", backends: iptablesOnly, run: func(e *env) {
			e.w.InstallVariants()
			stays := e.both("stays", 8081)
			e.moveRules()
			earlier := strings.TrimPrefix(string(e.w.Backend), "iptables")
			for _, tool := range toolsOf(e.f) {
				command, verb, _ := strings.Cut(tool, "-")
				e.w.ReplaceTool(strings.TrimSuffix(command+earlier+"-"+verb, "-"), "echo cannot >&2; exit 1")
			}
			later := e.both("later", 8082)
			e.served(map[uint16]string{8081: "stays", 8082: "later"})
			e.del(later)
			e.w.InstallVariants()
			e.without(stays, "with the last pod")
			e.sameRules("DEL of every pod in another variant", e.before)
		}},
		scenario{name: "the command of one family changes its variant", backends: iptablesOnly, run: func(e *env) {
			e.w.InstallVariants()
			e.net = e.network(world.NetworkOptions{Families: world.Families})
			goes, stays := e.both("goes", 8080), e.both("stays", 8081)
			command, variant := "iptables", strings.TrimPrefix(string(otherVariant(e.w.Backend)), "iptables")
			if e.f == world.V6 {
				command = "ip6tables"
			}
			for _, verb := range []string{"", "-save", "-restore"} {
				e.w.InstallTool(command+verb, filepath.Join(e.w.ToolDir, command+variant+verb))
			}
			later := e.both("later", 8082)
			for range world.Families {
				e.served(map[uint16]string{8080: "goes", 8081: "stays", 8082: "later"})
				e.f = e.f.Other()
			}
			for _, a := range []*world.Attachment{goes, stays, later} {
				e.without(a, "in two variants")
			}
			e.sameRules("DEL of every pod in two variants", e.before)
		}},
		scenario{name: "the other variant's tools are missing", backends: iptablesOnly, run: func(e *env) {
			e.web()
			e.w.UseVariant(otherVariant(e.w.Backend))
			b := e.w.NewPod("b")
			for i, want := range []int{1, 0} { // then it is known
				out := e.w.Invoke(e.withPod(b, "ADD", 8083))
				about, all := strings.Count(string(out.Stderr), "other variant of iptables"), strings.Count(string(out.Stderr), "level=WARN")
				if out.ExitCode != 0 || about != want || i > 0 && all > 0 {
					e.Errorf("ADD %d: exit code %d, %d warnings about the other variant, want %d:\n%s%s", i, out.ExitCode, about, want, out.Stdout, out.Stderr)
				}
			}
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		}, tampers: true},
	)
}

func otherVariant(b world.Backend) world.Backend {
	if b == world.IptablesLegacy {
		return world.IptablesNFT
	}
	return world.IptablesLegacy
}

// moveRules changes the variant of iptables, and loads the rules of the earlier one into
// the new one.
func (e *env) moveRules() {
	e.Helper()
	saved := e.w.Save(e.f)
	e.w.UseVariant(otherVariant(e.w.Backend))
	if _, err := e.w.Node.TryCommand(saved, filepath.Join(e.w.ToolDir, toolsOf(e.f)[1]), "--wait"); err != nil {
		e.Fatal(err)
	}
}

// withPod is an invocation of hostport alone for a pod with an address that
// nobody has.
func (e *env) withPod(p *world.Pod, verb string, port int) world.Invocation {
	e.Helper()
	a := e.live[0]
	i := a.Invocation(verb, world.Config{"runtimeConfig": world.Config{"portMappings": []world.Mapping{world.TCP(port, 80)}}})
	next := a.Addr(e.f).Next()
	for slices.ContainsFunc(e.live, func(l *world.Attachment) bool { return l.Addr(e.f) == next }) {
		next = next.Next()
	}
	i.Stdin = []byte(strings.ReplaceAll(string(i.Stdin), `"`+a.Addr(e.f).String()+`/`, `"`+next.String()+`/`))
	i.ContainerID, i.Netns, i.Args = p.ContainerID, p.Path, p.Args()
	return i
}

// without deletes a pod and wants no rule that names it in either variant.
func (e *env) without(a *world.Attachment, when string) {
	e.Helper()
	e.del(a)
	e.unnamed(a, "DEL "+when)
}

// unnamed wants no rule of iptables to name a pod, in either variant.
func (e *env) unnamed(a *world.Attachment, after string) {
	e.Helper()
	r := e.w.Ruleset()
	for _, rules := range []string{r.IptablesNFT, r.Ip6tablesNFT, r.IptablesLegacy, r.Ip6tablesLegacy} {
		if strings.Contains(rules, a.Pod.ContainerID[:12]) {
			e.Errorf("rules of %s are left after %s:\n%s", a.Pod.Name, after, rules)
		}
	}
}
