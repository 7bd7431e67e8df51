package integration

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/test/world"
)

// unreadableScenarios are about rules of a family or a backend that cannot be read
// for a time, while the others can.
func unreadableScenarios() []scenario {
	scenes := []scenario{
		{name: "a lost state and rules of one family that cannot be read", backends: iptablesOnly, run: func(e *env) {
			lostBesideUnread(e, func(web *world.Attachment) {
				e.breakTools(e.f.Other())
				e.refusedFor(e.net, web, world.TCP(8080, 81))
			})
		}},
		{name: "a lost state and a tool that fails once", backends: iptablesOnly, run: func(e *env) {
			lostBesideUnread(e, func(*world.Attachment) {
				once := e.TempDir()
				for _, tool := range toolsOf(e.f.Other()) {
					failed := once + "/" + tool
					e.w.ReplaceTool(tool, `[ "$1" = --version ] || [ -e `+failed+` ] || { >`+failed+`; echo "`+tool+`: cannot" >&2; exit 1; }; exec "$REAL" "$@"`)
				}
			})
		}},
		{name: "a lost state while the tools are away", backends: iptablesOnly, run: func(e *env) {
			nft := e.otherBackend()
			e.webTo(nft, "web", 8080)
			hidden := e.webTo(e.net, "hidden", 8081)
			e.loseState()
			for _, tool := range allTools {
				e.w.RemoveTool(tool)
			}
			e.webTo(nft, "third", 8082)
			e.allReached()
			e.w.RestoreTools()
			e.refusedFor(nft, hidden, world.TCP(8081, 81))
			e.checks(e.live...)
			e.allReached()
		}},
		{name: "a pod of both families, and a lost state of which one family can be read", backends: iptablesOnly, run: func(e *env) {
			web := e.webTo(e.network(world.NetworkOptions{Families: world.Families}), "web", 8080)
			e.loseState()
			e.breakTools(e.f.Other())
			e.refusedFor(e.net, web, world.TCP(8080, 81))
			e.webTo(e.net, "other", 8081)
			e.bothReach(web)
			e.w.RestoreTools()
			e.refusedFor(e.net, web, world.TCP(8080, 81))
			e.checks(e.live...)
			e.bothReach(web)
			e.reaches(e.w.Client, "tcp", e.node(8081), "other")
		}},
		{name: "wildcards of two families, and a lost state of which one family can be read", backends: iptablesOnly, run: func(e *env) {
			n := e.network(world.NetworkOptions{Families: world.Families})
			e.addTo(n, "here", world.TCP(8080, 80).On(e.f.Any())).Pod.Serve("tcp", 80)
			e.addTo(n, "there", world.TCP(8080, 80).On(e.f.Other().Any())).Pod.Serve("tcp", 80)
			e.loseState()
			e.breakTools(e.f.Other())
			e.webTo(e.net, "other", 8081)
			reached := func() {
				e.Helper()
				e.reaches(e.w.Client, "tcp", e.node(8080), "here")
				e.reaches(e.w.Client, "tcp", netip.AddrPortFrom(e.f.Other().Node(), 8080), "there")
			}
			reached()
			e.w.RestoreTools()
			e.webTo(e.net, "trigger", 8083)
			reached()
			e.checks(e.live...)
		}},
		{name: "DEL of a pod after a lost state of which one family can be read", backends: iptablesOnly, run: func(e *env) {
			web := e.webTo(e.network(world.NetworkOptions{Families: world.Families}), "web", 8080)
			e.loseState()
			e.breakTools(e.f.Other())
			e.del(web)
			e.webTo(e.net, "other", 8081)
			e.w.RestoreTools()
			e.webTo(e.net, "trigger", 8083)
			e.unnamed(web, "its DEL")
			if out := e.w.Ctl("list"); strings.Contains(string(out.Stdout), "8080") {
				e.Errorf("a pod that was deleted is listed:\n%s", out.Stdout)
			}
		}},
		{name: "UDP flows to a port whose earlier pod was deleted while one family cannot be read", backends: iptablesOnly, run: func(e *env) {
			web := e.addTo(e.network(world.NetworkOptions{Families: world.Families}), "web", world.UDP(8080, 80))
			e.loseState()
			e.breakTools(e.f.Other())
			e.del(web)
			e.add("next", world.UDP(8080, 80)).Pod.Serve("udp", 80)
			f := e.flow(e.w.Client, e.node(8080))
			e.answered(f, "next")
			e.keepsFlows(8080, func() { e.add("other", world.TCP(8081, 80)) })
			e.w.RestoreTools()
		}},
		{name: "one family flushed while the other cannot be read", backends: iptablesOnly, run: func(e *env) {
			web := e.webTo(e.network(world.NetworkOptions{Families: world.Families}), "web", 8080)
			e.breakTools(e.f.Other())
			e.w.Iptables(e.f, "-t", "nat", "-F")
			e.webTo(e.net, "other", 8081)
			e.bothReach(web)
			e.refusedFor(e.net, web, world.TCP(8080, 81))
			e.reaches(e.w.Client, "tcp", e.node(8081), "other")
			e.w.RestoreTools()
			e.checks(e.live...)
			e.bothReach(web)
		}},
	}
	for _, unread := range []string{"iptables", "nftables"} {
		scenes = append(scenes, unreadBackendScenarios(unread)...)
	}
	return scenes
}

// unreadBackendScenarios have a backend that cannot be read, and pods on it and on the
// other one.
func unreadBackendScenarios(unread string) []scenario {
	// networks returns one on the backend that can be read, and one on the other.
	networks := func(e *env) (read, hides *world.Network) {
		if unread == "nftables" {
			return e.net, e.otherBackend()
		}
		return e.otherBackend(), e.net
	}
	hide := func(e *env) {
		if unread == "nftables" {
			e.w.HideNFTables()
		} else {
			e.breakTools(world.Families...)
		}
	}
	remove := func(e *env, ofUnread bool) {
		if ofUnread == (unread == "nftables") {
			e.w.NFT("delete table inet hostport")
		} else {
			e.removeOurs()
		}
	}
	return []scenario{
		{name: "a lost state and " + unread + " that cannot be read", backends: iptablesOnly, run: func(e *env) {
			read, hides := networks(e)
			web, hidden := e.webTo(read, "web", 8080), e.webTo(hides, "hidden", 8081)
			e.loseState()
			hide(e)
			e.refusedFor(read, web, world.TCP(8080, 81))
			e.refusedFor(hides, web, world.TCP(8080, 81))
			third := e.webTo(read, "third", 8082)
			e.allReached()
			e.checks(web, third)
			e.w.RestoreTools()
			e.refusedFor(read, hidden, world.TCP(8081, 81))
			e.refusedFor(hides, web, world.TCP(8080, 81))
			e.checks(e.live...)
			e.allReached()
		}},
		{name: "one backend flushed while " + unread + " cannot be read", backends: iptablesOnly, run: func(e *env) {
			read, hides := networks(e)
			web, hidden := e.webTo(read, "web", 8080), e.webTo(hides, "hidden", 8081)
			hide(e)
			remove(e, false)
			third := e.webTo(read, "third", 8082)
			e.allReached()
			e.refusedFor(read, web, world.TCP(8080, 81))
			e.refusedFor(read, hidden, world.TCP(8081, 81))
			e.checks(web, third)
			e.w.RestoreTools()
			e.refusedFor(hides, hidden, world.TCP(8081, 81))
			e.checks(e.live...)
			e.allReached()
		}},
		{name: unread + " flushed while it cannot be read", backends: iptablesOnly, run: func(e *env) {
			read, hides := networks(e)
			web, hidden := e.webTo(read, "web", 8080), e.webTo(hides, "hidden", 8081)
			remove(e, true)
			hide(e)
			third := e.webTo(read, "third", 8082)
			e.refusedFor(read, hidden, world.TCP(8081, 81))
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.reaches(e.w.Client, "tcp", e.node(8082), "third")
			e.checks(web, third)
			e.w.RestoreTools()
			e.webTo(hides, "trigger", 8083)
			e.allReached()
		}},
		{name: "hostportctl uninstall, a lost state and " + unread + " that cannot be read", backends: iptablesOnly, run: func(e *env) {
			_, hides := networks(e)
			hidden := e.webTo(hides, "hidden", 8081)
			e.loseState()
			hide(e)
			e.refusesUninstall(hides)
			e.w.RestoreTools()
			e.allReached()
			e.refusedFor(hides, hidden, world.TCP(8081, 81))
		}},
		{name: "hostportctl uninstall and a pod of " + unread + " that could not be read since", backends: iptablesOnly, run: func(e *env) {
			read, hides := networks(e)
			hidden := e.webTo(hides, "hidden", 8081)
			e.loseState()
			hide(e)
			e.del(e.webTo(read, "other", 8080)) // there is a state then
			e.refusesUninstall(hides)
			e.w.RestoreTools()
			conf := e.TempDir()
			before := e.w.Ruleset()
			for _, more := range [][]string{{"--dry-run"}, nil} {
				out := e.w.Ctl(append([]string{"uninstall", "--bin-dir", conf, "--conf-dir", conf}, more...)...)
				if out.ExitCode != 2 || !strings.Contains(string(out.Stderr), "holds 8081/tcp") {
					e.Errorf("uninstall %v: exit status %d, want 2 and who holds 8081/tcp\n%s%s", more, out.ExitCode, out.Stdout, out.Stderr)
				}
				if more != nil {
					e.sameRules("a dry run", before)
				}
			}
			e.allReached()
			e.refusedFor(hides, hidden, world.TCP(8081, 81))
		}},
	}
}

// lostBesideUnread loses the state of a pod and of one of the other family, whose rules
// cannot be read after breaks, which gets the first pod. Both serve on beside a third, and
// once the tools work again the hidden pod's port is refused to others.
func lostBesideUnread(e *env, breaks func(web *world.Attachment)) {
	web := e.web()
	unseen := e.network(world.NetworkOptions{Families: []world.Family{e.f.Other()}})
	hidden := e.webTo(unseen, "hidden", 8082)
	e.loseState()
	breaks(web)
	e.webTo(e.net, "other", 8081)
	reached := func() {
		e.Helper()
		e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		e.reaches(e.w.Client, "tcp", e.node(8081), "other")
		e.reaches(e.w.Client, "tcp", netip.AddrPortFrom(e.f.Other().Node(), 8082), "hidden")
	}
	reached()
	e.w.RestoreTools()
	e.refusedFor(unseen, hidden, world.TCP(8082, 81))
	e.checks(e.live...)
	reached()
}

// breakTools has the iptables tools of some families tell their version and fail at
// anything else.
func (e *env) breakTools(families ...world.Family) {
	e.Helper()
	for _, f := range families {
		for _, tool := range toolsOf(f) {
			e.w.ReplaceTool(tool, `[ "$1" = --version ] && exec "$REAL" "$@"; echo "`+tool+`: cannot" >&2; exit 1`)
		}
	}
}

// toolsOf are the names of the iptables tools of a family.
func toolsOf(f world.Family) []string {
	return slices.DeleteFunc(slices.Clone(allTools), func(tool string) bool { return strings.HasPrefix(tool, "ip6") != (f == world.V6) })
}

// refusesUninstall wants hostportctl uninstall to say which rules cannot be read, those
// of a network's backend, and to change nothing.
func (e *env) refusesUninstall(hides *world.Network) {
	e.Helper()
	reason := "tables-save: "
	if hides != e.net {
		reason = "read table hostport: "
	}
	bin, conf := e.TempDir(), e.TempDir()
	plugin, conflist := filepath.Join(bin, "hostport"), filepath.Join(conf, "10-podnet.conflist")
	for path, text := range map[string][]byte{plugin: nil, conflist: hides.Conflist} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			e.Fatal(err)
		}
	}
	for _, more := range [][]string{{"--dry-run"}, nil, {"--drain-timeout", "1ms"}} {
		out := e.w.Ctl(append([]string{"uninstall", "--bin-dir", bin, "--conf-dir", conf}, more...)...)
		if out.ExitCode != 2 || !strings.Contains(string(out.Stderr), reason) {
			e.Errorf("uninstall %v: exit status %d, want 2 and %q\n%s%s", more, out.ExitCode, reason, out.Stdout, out.Stderr)
		}
		if text, err := os.ReadFile(conflist); err != nil || string(text) != string(hides.Conflist) {
			e.Fatalf("uninstall %v changed the conflist: %s, %v", more, text, err)
		}
		if _, err := os.Stat(plugin); err != nil {
			e.Errorf("uninstall %v removed the plugin: %v", more, err)
		}
	}
}

// allReached asks every pod over its first port.
func (e *env) allReached() {
	e.Helper()
	for _, a := range e.live {
		e.reaches(e.w.Client, "tcp", e.node(uint16(a.Mapped())), a.Pod.Name)
	}
}

// bothReach asks a pod in both families.
func (e *env) bothReach(a *world.Attachment) {
	e.Helper()
	for _, f := range world.Families {
		e.reaches(e.w.Client, "tcp", netip.AddrPortFrom(f.Node(), uint16(a.Mapped())), a.Pod.Name)
	}
}
