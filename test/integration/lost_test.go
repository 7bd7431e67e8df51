package integration

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostport-cni/hostport/internal/fault"
	"github.com/hostport-cni/hostport/test/world"
)

// lostStateScenarios are about a state directory that was deleted, or is not
// the one that was asked about, while pods live. The kernel still names them.
func lostStateScenarios() []scenario {
	verbs := map[string]func(e *env, web *world.Attachment){
		"ADD of the same port": func(e *env, web *world.Attachment) {
			for _, m := range []world.Mapping{world.TCP(8080, 81), world.UDP(8080, 81), world.TCP(8443, 81)} {
				e.refusedFor(e.net, web, m)
			}
		},
		"ADD of the same port on the other backend": func(e *env, web *world.Attachment) {
			e.refusedFor(e.otherBackend(), web, world.TCP(8080, 81))
		},
		"ADD of another port": func(e *env, _ *world.Attachment) { e.webTo(e.net, "trigger", 8083) },
		"DEL of another pod":  func(e *env, _ *world.Attachment) { e.del(e.live[1]) },
		"CHECK":               func(e *env, web *world.Attachment) { e.checks(web) },
		"GC": func(e *env, _ *world.Attachment) {
			e.gc(world.Config{"cni.dev/valid-attachments": valid(e.live...)})
		},
		"GC without a list": func(e *env, _ *world.Attachment) { e.gc(nil) },
		"hostportctl sync":  func(e *env, _ *world.Attachment) { e.noState("sync", 2) },
		"hostportctl check": func(e *env, web *world.Attachment) {
			out := e.noState("check", 1)
			if !strings.Contains(out, web.Pod.ContainerID) {
				e.Errorf("hostportctl check does not name the owner %s:\n%s", web.Pod.ContainerID, out)
			}
		},
		"hostportctl prune": func(e *env, _ *world.Attachment) { e.noState("prune", 2) },
		"hostportctl list":  func(e *env, _ *world.Attachment) { e.noState("list", 0) },
	}
	var out []scenario
	for verb, call := range verbs {
		out = append(out, scenario{name: "lost state, then " + verb, run: func(e *env) {
			web := e.add("web", world.TCP(8080, 80), world.UDP(8080, 53), world.TCP(8443, 80).On(e.f.NodeSecond()))
			web.Pod.Serve("tcp", 80)
			web.Pod.Serve("udp", 53)
			e.webTo(e.net, "other", 8081)
			e.loseState()
			call(e, web)
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.refusedFor(e.net, web, world.TCP(8080, 81))
			e.checks(e.live...)
			e.allReached()
			e.reaches(e.w.Client, "udp", e.node(8080), "web")
			e.reaches(e.w.Client, "tcp", netip.AddrPortFrom(e.f.NodeSecond(), 8443), "web")
			e.reachesAs(web.Pod.Netns, "tcp", e.node(8080), "web", e.f.Gateway())
		}})
	}
	return append(
		out,
		scenario{name: "lost state, then DEL of the pod itself", run: func(e *env) {
			web := e.web()
			e.webTo(e.net, "other", 8081)
			e.loseState()
			e.del(web)
			e.w.Node.Serve("tcp", 8080)
			e.reaches(e.w.Client, "tcp", e.node(8080), "node")
			e.allReached()
			e.checks(e.live...)
		}},
		scenario{name: "sync with another state directory takes no port", run: func(e *env) {
			e.web()
			before := e.w.Ruleset()
			e.inDirectory(filepath.Join(filepath.Dir(e.w.DataDir), "elsewhere"), func() { e.noState("sync", 2) })
			e.sameRules("sync with another state directory", before)
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		}},
		scenario{name: "firewall reloads, each with a sync of the default state directory", reloads: true, run: func(e *env) {
			e.webTo(e.net, "stays", 8081)
			gone := e.web()
			restore := e.snapshot()
			e.del(gone)
			later := e.webTo(e.net, "later", 8082)
			e.inDirectory("/run/hostport", func() {
				for range 2 {
					restore()
					e.noState("sync", 2)
					e.reaches(e.w.Client, "tcp", e.node(8081), "stays")
				}
				e.removeOurs()
				e.noState("sync", 0)
				restore()
			})
			e.checkFinds(later, "an older ruleset was restored")
			e.webTo(e.net, "trigger", 8083)
			e.allReached()
			e.w.Node.Serve("tcp", 8080)
			e.reaches(e.w.Client, "tcp", e.node(8080), "node")
		}},
		scenario{name: "a copy of the state directory is used, and pods came since it was made", run: func(e *env) {
			e.webTo(e.net, "before", 8080)
			second := e.w.DataDir + "-second"
			if err := os.CopyFS(second, os.DirFS(e.w.DataDir)); err != nil {
				e.Fatal(err)
			}
			e.webTo(e.net, "since", 8081)
			e.recovered = true
			e.w.DataDir = second
			e.net = e.network(world.NetworkOptions{})
			e.webTo(e.net, "after", 8082)
			e.sync()
			for _, a := range e.live {
				a.Network = e.net
			}
			e.checks(e.live...)
			e.allReached()
		}},
		scenario{name: "two state directories on one node", tampers: true, run: twoStates},
		scenario{name: "two state directories, and ADDs on both at once", tampers: true, run: twoStatesAtOnce},
		scenario{
			name: "a resync reads one family of a pod that another state directory adds", tampers: true,
			backends: iptablesOnly, families: v4Only, run: halfOfOther,
		},
		scenario{
			name: "a resync is killed that met a pod of another state directory", tampers: true,
			backends: []world.Backend{world.IptablesLegacy}, families: v4Only, run: killedBesideOther,
		},
		scenario{name: "two state directories, and GC and hostportctl on either", tampers: true, run: twoStatesMended},
	)
}

// earlierBootScenarios are about rules that a firewall service restored after a reboot.
func earlierBootScenarios() []scenario {
	add := func(e *env, _ *world.Attachment) { e.webTo(e.net, "next", 8081) }
	del := func(e *env, _ *world.Attachment) { e.invoke(e.stranger("DEL", 8090)) }
	gc := func(e *env, _ *world.Attachment) { e.gc(nil) }
	check := func(e *env, _ *world.Attachment) {
		if out := e.w.Invoke(e.bare("CHECK", e.w.NewPod("stranger"), 1)); out.ExitCode == 0 {
			e.Errorf("CHECK of a pod that was never added: %s", out.Stdout)
		}
	}
	scenes := []scenario{
		{name: "rules of an earlier boot count for nothing", reloads: true, run: earlierBoot(false, add)},
		{name: "rules of an earlier boot are removed by a DEL", reloads: true, run: earlierBoot(false, del)},
		{name: "rules of an earlier boot are removed by GC", reloads: true, run: earlierBoot(false, gc)},
		{name: "rules of an earlier boot are removed by a CHECK", reloads: true, run: earlierBoot(false, check)},
		{name: "rules and state of an earlier boot count for nothing", reloads: true, run: earlierBoot(true, add)},
	}
	for by, first := range map[string]func(e *env, web *world.Attachment){
		"a CHECK":               check,
		"a DEL":                 del,
		"the DEL of their pod":  func(e *env, web *world.Attachment) { web.MustDel(e) },
		"GC":                    gc,
		"GC with an empty list": func(e *env, _ *world.Attachment) { e.gc(world.Config{"cni.dev/valid-attachments": []any{}}) },
		"hostportctl sync":      func(e *env, _ *world.Attachment) { e.sync() },
		"hostportctl prune": func(e *env, _ *world.Attachment) {
			if out := e.w.Ctl("prune"); out.ExitCode != 0 {
				e.Errorf("hostportctl prune: exit status %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
			}
		},
	} {
		scenes = append(scenes, scenario{name: "rules and state of an earlier boot are removed by " + by, reloads: true, run: earlierBoot(true, first)})
	}
	return scenes
}

// loseState deletes the state directory.
func (e *env) loseState() {
	e.Helper()
	e.recovered = true
	if err := os.RemoveAll(e.w.DataDir); err != nil {
		e.Fatal(err)
	}
}

// inDirectory has fn look for the state in another directory.
func (e *env) inDirectory(dir string, fn func()) {
	mine := e.w.DataDir
	e.w.DataDir = dir
	fn()
	e.w.DataDir = mine
}

// noState runs hostportctl where there is no state, and wants it to say so, to
// change no rule and to make no directory.
func (e *env) noState(command string, status int) string {
	e.Helper()
	before := e.w.Ruleset()
	out := e.w.Ctl(command)
	text := string(out.Stdout) + string(out.Stderr)
	if out.ExitCode != status || !strings.Contains(text, "no state in "+e.w.DataDir) {
		e.Errorf("hostportctl %s: exit status %d, want %d and that there is no state\n%s", command, out.ExitCode, status, text)
	}
	if _, err := os.Stat(e.w.DataDir); err == nil {
		e.Errorf("hostportctl %s made the state directory", command)
	}
	e.sameRules("hostportctl "+command, before)
	return text
}

// refusedFor wants an ADD to be refused because of a holder, and deletes the
// refused pod again.
func (e *env) refusedFor(n *world.Network, holder *world.Attachment, mappings ...world.Mapping) {
	e.Helper()
	a, err := n.Add(e.w.NewPod("refused"), mappings...)
	if err == nil {
		e.Errorf("the port of %s was given away", holder.Pod.Name)
	} else if !strings.Contains(err.Error(), holder.Pod.ContainerID) {
		e.Errorf("ADD of a held port: %v, want container %s named", err, holder.Pod.ContainerID)
	}
	a.MustDel(e)
}

// stranger is an invocation for a pod with one host port that was never added.
func (e *env) stranger(verb string, port int) world.Invocation {
	e.Helper()
	p := e.w.NewPod("stranger")
	return world.Invocation{
		Command: verb, ContainerID: p.ContainerID, IfName: "eth0", Netns: p.Path, Args: p.Args(),
		Stdin: e.w.Stdin(world.Config{"runtimeConfig": world.Config{"portMappings": []world.Mapping{world.TCP(port, 80)}}}),
	}
}

// twoStates has two networks whose pods are recorded in different directories.
// Neither takes the other's ports, and no pod that ended comes back.
func twoStates(e *env) {
	second := e.network(world.NetworkOptions{Name: "second", Second: true, Hostport: world.Config{"dataDir": e.w.DataDir + "-second"}})
	e.webTo(e.net, "first", 8080)
	e.webTo(second, "second", 8081)
	third := e.webTo(e.net, "third", 8082)
	e.webTo(second, "fourth", 8083)
	for port, name := range map[uint16]string{8080: "first", 8081: "second", 8082: "third", 8083: "fourth"} {
		e.reaches(e.w.Client, "tcp", e.node(port), name)
	}
	e.refusedFor(second, third, world.TCP(8082, 81))
	third.Pod.Close()
	e.del(third)
	// The other state still has a record of it.
	e.webTo(second, "fifth", 8084)
	if rules := e.w.Rules(e.f); strings.Contains(rules, third.Pod.ContainerID[:12]) {
		e.Errorf("a pod that ended came back:\n%s", rules)
	}
	e.webTo(e.net, "sixth", 8085)
	for port, name := range map[uint16]string{8080: "first", 8081: "second", 8083: "fourth", 8084: "fifth", 8085: "sixth"} {
		e.reaches(e.w.Client, "tcp", e.node(port), name)
	}
}

// twoStatesAtOnce adds pods to two directories at once. One that was added, of either,
// keeps its rules.
func twoStatesAtOnce(e *env) {
	pods := make([]*world.Pod, 16)
	for i := range pods {
		pods[i] = e.w.NewPod(fmt.Sprintf("pod%d", i))
	}
	theirs := e.w.DataDir + "-second"
	var all sync.WaitGroup
	added := make([]bool, len(pods))
	for i, p := range pods {
		call := e.bare("ADD", p, i)
		if i%2 == 1 {
			call.Stdin = bytes.Replace(call.Stdin, []byte(`"`+e.w.DataDir+`"`), []byte(`"`+theirs+`"`), 1)
		}
		all.Go(func() { added[i] = e.w.Invoke(call).ExitCode == 0 })
	}
	all.Wait()
	rules := e.w.Rules(e.f)
	for i, p := range pods {
		if added[i] && !strings.Contains(rules, p.ContainerID) {
			e.Errorf("pod %d was added and has no rule", i)
		}
	}
	if n := len(slices.DeleteFunc(added, func(ok bool) bool { return !ok })); n < len(pods)/2 {
		e.Errorf("%d of %d ADDs succeeded", n, len(pods))
	}
}

// halfOfOther has a pod of another state directory added while a resync reads the owners:
// after the rules of IPv4, and before those of IPv6.
func halfOfOther(e *env) {
	second := e.network(world.NetworkOptions{Name: "second", Second: true, Families: world.Families, Hostport: world.Config{"dataDir": e.w.DataDir + "-second"}})
	e.webTo(e.net, "first", 8080)
	e.webTo(second, "second", 8081)
	reached, added := filepath.Join(e.TempDir(), "reached"), filepath.Join(e.TempDir(), "added")
	e.w.ReplaceTool("ip6tables-restore", fmt.Sprintf(`if /bin/mkdir %s 2>/dev/null; then while ! [ -e %s ]; do /bin/sleep 0.05; done; fi; exec "$REAL" "$@"`, reached, added))
	done := make(chan world.Output)
	go func() { done <- e.w.Ctl("sync") }()
	for _, err := os.Stat(reached); err != nil; _, err = os.Stat(reached) {
		select {
		case out := <-done:
			e.Fatalf("hostportctl sync does not read the rules of IPv6: %s%s", out.Stdout, out.Stderr)
		case <-time.After(20 * time.Millisecond):
		}
	}
	e.webTo(second, "late", 8082)
	if err := os.WriteFile(added, nil, 0o600); err != nil {
		e.Fatal(err)
	}
	if out := <-done; out.ExitCode != 0 {
		e.Errorf("hostportctl sync: %s%s", out.Stdout, out.Stderr)
	}
	for _, a := range e.live[1:] {
		e.bothReach(a)
	}
	e.allReached()
}

// killedBesideOther has a resync that does not read the rules of a pod of another state
// directory, as if that came later, and is killed when it has rewritten all rules.
func killedBesideOther(e *env) {
	second := e.network(world.NetworkOptions{Name: "second", Second: true, Hostport: world.Config{"dataDir": e.w.DataDir + "-second"}})
	e.webTo(e.net, "first", 8080)
	other := e.webTo(second, "other", 8081)
	once := filepath.Join(e.TempDir(), "once")
	e.w.ReplaceTool("iptables-save", `case "$*" in *nat*) if /bin/mkdir `+once+` 2>/dev/null; then "$REAL" "$@" | /bin/grep -v `+other.Pod.ContainerID+`; exit; fi; esac; exec "$REAL" "$@"`)
	faulty := world.Build(e, "github.com/hostport-cni/hostport/cmd/hostportctl", "-tags", "faultpoints")
	program := []string{"/usr/bin/env", "PATH=" + e.w.ToolDir, "HOSTPORT_FAULT=" + fault.AfterRewrite, faulty, "--data-dir", e.w.DataDir, "sync"}
	if _, err := e.w.Node.TryCommand("", program[0], program[1:]...); err == nil {
		e.Error("the resync was not killed")
	}
	e.allReached()
}

// twoStatesMended has two networks as well, and what an operator and a runtime may
// call on the state of either, again and again. No living pod loses its port, none
// is given away, and one that ended without a DEL does not come back.
func twoStatesMended(e *env) {
	mine, theirs := e.w.DataDir, e.w.DataDir+"-second"
	second := e.network(world.NetworkOptions{Name: "second", Second: true, Hostport: world.Config{"dataDir": theirs}})
	a, b := e.webTo(e.net, "first", 8080), e.webTo(second, "second", 8081)
	dead := e.webTo(second, "dead", 8082)
	dead.Pod.Close()
	e.forget(dead)
	for range 2 {
		for i, dir := range []string{mine, theirs} {
			e.inDirectory(dir, func() {
				for _, command := range []string{"sync", "check", "list", "prune"} {
					if out := e.w.Ctl(command); out.ExitCode == 2 {
						e.Errorf("hostportctl %s: %s%s", command, out.Stdout, out.Stderr)
					}
					e.allReached()
					if rules := e.w.Rules(e.f); strings.Contains(rules, dead.Pod.ContainerID[:12]) {
						e.Errorf("hostportctl %s brought a pod back that ended:\n%s", command, rules)
					}
				}
				e.gc(nil)
				e.allReached()
				e.checks(e.live[i])
			})
		}
		e.refusedFor(e.net, b, world.TCP(8081, 81))
		e.refusedFor(second, a, world.TCP(8080, 81))
	}
}

var bootOfTag = regexp.MustCompile(`@[0-9a-f]{8}\b`)

// earlierBoot has a firewall restore rules that it saved in another boot. The
// owner's sandbox lives, as if its inode number had come again. The first call
// of the plugin removes them. With kept the state directory is on a disk.
func earlierBoot(kept bool, first func(e *env, web *world.Attachment)) func(e *env) {
	return func(e *env) {
		web := e.web()
		saved := e.w.Save(e.f)
		if e.w.Backend == world.NFTables {
			saved = e.w.ListNFT()
		}
		if !bootOfTag.MatchString(saved) {
			e.Fatalf("no rule names its boot:\n%s", saved)
		}
		saved = bootOfTag.ReplaceAllString(saved, "@00000000")
		if kept {
			e.forget(web)
			e.w.SetState("meta", "boot", "11111111-2222-4333-8444-555555555555")
		} else {
			e.del(web)
			e.loseState()
		}
		if e.w.Backend == world.NFTables {
			e.reload(saved)
		} else {
			e.restore(saved)
		}
		first(e, web)
		if rules := e.w.Rules(e.f); strings.Contains(rules, "@00000000") || strings.Contains(rules, web.Addr(e.f).String()) {
			e.Errorf("rules of another boot are still there:\n%s", rules)
		}
		if out := e.w.Ctl("list"); strings.Contains(string(out.Stdout), "8080") {
			e.Errorf("an owner of another boot is listed:\n%s", out.Stdout)
		}
		e.w.Node.Serve("tcp", 8080)
		e.reaches(e.w.Client, "tcp", e.node(8080), "node")
		e.webTo(e.net, "new", 8080)
		e.reaches(e.w.Client, "tcp", e.node(8080), "new")
	}
}
