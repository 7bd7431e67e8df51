package integration

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// ownerScenarios are about the life and death of owners.
func ownerScenarios() []scenario {
	return []scenario{
		{name: "a new sandbox of the same pod takes its ports over", report: "cilium 22460", run: func(e *env) {
			newSandbox(e, e.net)
		}},
		{name: "a new sandbox of the same pod takes its ports over from the other backend", report: "cilium 22460", run: func(e *env) {
			newSandbox(e, e.otherBackend())
		}},
		{name: "a living owner with the same address is not displaced", run: func(e *env) {
			web := e.web()
			i := e.withPod(e.w.NewPod("twin"), "ADD", 8083)
			i.Stdin = web.Invocation("ADD", world.Config{"runtimeConfig": world.Config{"portMappings": []world.Mapping{world.TCP(8083, 80)}}}).Stdin
			rules := e.w.Ruleset()
			out := e.w.Invoke(i)
			if out.ExitCode == 0 || !strings.Contains(string(out.Stdout), web.Pod.ContainerID) {
				e.Errorf("exit code %d, want the living owner of the address named:\n%s", out.ExitCode, out.Stdout)
			}
			e.sameRules("a refused ADD", rules)
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		}},
		{name: "a sandbox whose path is gone lives in its processes", run: func(e *env) {
			web := e.web()
			stop := web.Pod.Run(e, "sleep", "600")
			web.Pod.Close()
			e.refusedFor(e.net, web, world.TCP(8080, 81))
			e.gc(nil)
			if out := e.w.Ctl("prune"); out.ExitCode != 0 {
				e.Errorf("prune: exit status %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
			}
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			stop()
			e.forget(web)
			e.webTo(e.net, "next", 8080)
			e.reaches(e.w.Client, "tcp", e.node(8080), "next")
			web.MustDel(e)
			e.reaches(e.w.Client, "tcp", e.node(8080), "next")
		}},
		{name: "prune declares nobody dead whom it cannot see", run: func(e *env) {
			web := e.web()
			e.hiddenPrune(web, "unshare", "--mount", "--propagation", "private", "sh", "-c", `umount "$1"; shift; exec "$@"`, "-", web.Pod.Path)
			e.hiddenPrune(web, "unshare", "--pid", "--fork", "--mount", "--mount-proc", "sh", "-c", `umount "$1"; shift; exec "$@"`, "-", web.Pod.Path)
			if out := e.w.Ctl("prune"); out.ExitCode != 0 {
				e.Errorf("prune on the node: %s%s", out.Stdout, out.Stderr)
			}
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		}},
		{name: "prune names the dead also when their rules are gone", run: func(e *env) {
			web := e.web()
			web.Pod.Close()
			e.removeOurs()
			if out := e.w.Ctl("prune"); out.ExitCode != 0 || !strings.Contains(string(out.Stdout), "removed") {
				e.Errorf("exit status %d, want the pod named:\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
			}
			e.forget(web)
		}},
		{name: "sync where nobody can be seen takes no port", run: func(e *env) {
			web := e.web()
			out := e.w.CtlIn([]string{"unshare", "--pid", "--fork", "--mount", "--mount-proc", "sh", "-c", `umount "$1"; shift; exec "$@"`, "-", web.Pod.Path}, "sync")
			if out.ExitCode != 0 {
				e.Errorf("sync: exit status %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
			}
			e.checks(web)
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		}},
		{name: "hostportctl check names whose rule is missing or differs, and sync repairs that", reloads: true, run: func(e *env) {
			e.w.IptablesRestore(e.f, "*nat\n-A PREROUTING -p tcp --dport 1 -j RETURN\nCOMMIT\n")
			e.foreign()
			e.webTo(e.net, "other", 9090)
			busy := e.busy()
			busy.Pod.Serve("tcp", 80)
			before := e.w.Ruleset().WithoutPast().Sorted()
			for what, to := range map[string]string{"missing": "", "different": e.f.Elsewhere().String()} {
				e.leadElsewhere("8080", to)
				out := e.w.Ctl("check")
				if text := string(out.Stdout); out.ExitCode != 1 || !strings.Contains(text, "default/busy") || strings.Contains(text, "default/other") {
					e.Errorf("check with a rule that is %s: exit status %d, want 1 and the pod named:\n%s%s", what, out.ExitCode, text, out.Stderr)
				}
				e.sync()
				if diff := cmp.Diff(before, e.w.Ruleset().WithoutPast().Sorted()); diff != "" {
					e.Errorf("rules after sync of one that was %s (-want +got):\n%s", what, diff)
				}
				e.reaches(e.w.Client, "tcp", e.node(8080), "busy")
			}
		}},
		{name: "hostportctl check names what nobody owns", run: func(e *env) {
			e.web()
			before := e.w.Ruleset()
			e.strangeMapping(8085)
			out := e.w.Ctl("check")
			if out.ExitCode != 1 || !strings.Contains(string(out.Stdout), "8085") {
				e.Errorf("check: exit status %d, want 1 and port 8085 named:\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
			}
			e.sync()
			e.sameRules("sync of a mapping that nobody owns", before)
			if out := e.w.Ctl("check"); out.ExitCode != 0 {
				e.Errorf("check after sync: exit status %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
			}
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		}},
	}
}

// newSandbox adds a pod once more in another sandbox, to a network, while the earlier
// one lives, whose DEL comes late.
func newSandbox(e *env, n *world.Network) {
	old := e.both("old", 8080)
	e.add("bystander", world.TCP(8081, 80)).Pod.Serve("tcp", 80)
	next := e.w.NewPod("next")
	next.UID = old.Pod.UID
	a, err := n.Add(next, world.TCP(8080, 80), world.UDP(8080, 80))
	if err != nil {
		e.Fatalf("ADD of the pod's new sandbox while the old one lives: %v", err)
	}
	e.live = append(e.live, a)
	next.Serve("tcp", 80)
	next.Serve("udp", 80)
	e.served(map[uint16]string{8080: "next"})
	rules := e.w.Ruleset()
	e.del(old)
	e.sameRules("the old sandbox's late DEL", rules)
	e.served(map[uint16]string{8080: "next"})
	e.reaches(e.w.Client, "tcp", e.node(8081), "bystander")
	e.refusedFor(e.net, a, world.TCP(8080, 81))
}

// hiddenPrune runs prune in a process that does not see the pod's sandbox.
func (e *env) hiddenPrune(web *world.Attachment, in ...string) {
	e.Helper()
	rules := e.w.Ruleset()
	out := e.w.CtlIn(in, "prune")
	text := string(out.Stdout) + string(out.Stderr)
	if out.ExitCode != 2 || !strings.Contains(text, "nsenter") {
		e.Errorf("prune in other namespaces: exit status %d, want 2 and how to run it:\n%s", out.ExitCode, text)
	}
	e.sameRules("prune in other namespaces", rules)
	e.reaches(e.w.Client, "tcp", e.node(8080), web.Pod.Name)
}

// leadElsewhere makes the TCP mappings of a port lead to another address, or removes
// them.
func (e *env) leadElsewhere(port, to string) {
	e.Helper()
	if e.w.Backend == world.NFTables {
		for _, el := range e.elements() {
			if el.value == "" || !strings.HasSuffix(el.key, "tcp . "+port) {
				continue
			}
			e.w.NFT(fmt.Sprintf("delete element inet hostport %s { %s }", el.in, el.key))
			if to != "" {
				e.w.NFT(fmt.Sprintf("add element inet hostport %s { %s counter comment %q : %s . 80 }", el.in, el.key, el.comment, to))
			}
		}
		return
	}
	saved, target := e.w.Save(e.f), regexp.MustCompile(`--to-destination \S+`)
	for _, r := range e.ours() {
		if !strings.Contains(r.line, "--dport "+port+" ") || !target.MatchString(r.line) {
			continue
		}
		changed := ""
		if to != "" {
			changed = target.ReplaceAllString(r.line, "--to-destination "+netip.AddrPortFrom(netip.MustParseAddr(to), 80).String()) + "\n"
		}
		saved = strings.Replace(saved, r.line+"\n", changed, 1)
	}
	e.restore(saved)
}

// strangeMapping adds a mapping to a chain or map of the plugin's.
func (e *env) strangeMapping(port int) {
	e.Helper()
	to := e.live[0].Addr(e.f)
	if e.w.Backend == world.NFTables {
		e.w.NFT(strings.NewReplacer("FAMILY", string(e.f), "PORT", strconv.Itoa(port), "TO", to.String()).
			Replace("add element inet hostport FAMILY { tcp . PORT : TO . 80 }"))
		return
	}
	e.w.Iptables(e.f, "-t", "nat", "-A", "CNI-HP-TCP-1F9", "-p", "tcp", "--dport", strconv.Itoa(port),
		"-j", "DNAT", "--to-destination", netip.AddrPortFrom(to, 80).String())
}
