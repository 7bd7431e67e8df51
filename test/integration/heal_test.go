package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hostport-cni/hostport/test/world"
)

// healScenarios are about rules that somebody else removed, and state that was
// lost. The next ADD heals every pod.
func healScenarios() []scenario {
	return []scenario{
		{
			name: "a flush of the nat table is healed", report: "containernetworking/plugins 512", backends: iptablesOnly,
			run: healed(func(e *env) { e.w.Iptables(e.f, "-t", "nat", "-F") }),
		},
		{
			name: "the loss of every chain is healed", report: "containernetworking/plugins 512",
			run: healed(func(e *env) { e.removeOurs() }),
		},
		{
			name: "a flush of the whole ruleset is healed", report: "containers/netavark 723",
			backends: []world.Backend{world.IptablesNFT, world.NFTables},
			run:      healed(func(e *env) { e.w.Node.Command("nft", "flush", "ruleset") }),
		},
		{name: "a lost base jump is healed", backends: iptablesOnly, run: healed(func(e *env) {
			for _, r := range e.ours() {
				if r.chain() == "PREROUTING" && r.table == "*nat" {
					e.w.IptablesRestore(e.f, fmt.Sprintf("*nat\n-D%s\nCOMMIT\n", strings.TrimPrefix(r.line, "-A")))
				}
			}
		})},
		{name: "a lost chain of the base is healed", backends: nftablesOnly, run: healed(func(e *env) {
			e.w.NFT("flush chain inet hostport prerouting\ndelete chain inet hostport prerouting")
		})},
		{name: "a dormant table is healed", backends: nftablesOnly, run: healed(func(e *env) {
			e.w.NFT("add table inet hostport { flags dormant; }")
		})},
		{name: "a flush of the plugin's rules is healed", backends: nftablesOnly, run: healed(func(e *env) {
			e.w.NFT("flush table inet hostport")
		})},
		{name: "DEL after a flush", report: "containernetworking/plugins 512", run: func(e *env) {
			a := e.web()
			b := e.add("other", world.TCP(8081, 80))
			b.Pod.Serve("tcp", 80)
			e.removeOurs()
			e.del(a)
			e.add("trigger", world.TCP(8082, 80))
			e.reaches(e.w.Client, "tcp", e.node(8081), "other")
			e.w.Node.Serve("tcp", 8080)
			e.reaches(e.w.Client, "tcp", e.node(8080), "node")
		}},
		{name: "DEL of the last pod after a flush", run: func(e *env) {
			a := e.web()
			e.removeOurs()
			e.del(a)
			e.sameRules("DEL after a flush", e.before)
		}},
		{name: "ADD again after a flush", run: func(e *env) {
			a := e.web()
			e.removeOurs()
			e.invoke(a.Invocation("ADD", nil))
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		}},
		{name: "an unreadable state file is moved aside and rebuilt", run: rebuilt(func(e *env, file string) {
			if err := os.WriteFile(file, []byte(strings.Repeat("not a database ", 4096)), 0o600); err != nil {
				e.Fatal(err)
			}
		}, true)},
		{name: "an empty state file is rebuilt", run: rebuilt(func(e *env, file string) {
			if err := os.Truncate(file, 0); err != nil {
				e.Fatal(err)
			}
		}, false)},
		{name: "a cut state file is rebuilt", run: rebuilt(func(e *env, file string) {
			if err := os.Truncate(file, 5000); err != nil {
				e.Fatal(err)
			}
		}, true)},
		{name: "a deleted state file is rebuilt", run: rebuilt(func(e *env, file string) {
			if err := os.Remove(file); err != nil {
				e.Fatal(err)
			}
		}, false)},
		{name: "what another boot recorded is void", run: otherBoot},
	}
}

// healed loses rules in some way and adds a pod. Every pod answers again.
func healed(lose func(e *env)) func(e *env) {
	return func(e *env) {
		a := e.web()
		b := e.add("other", world.UDP(8053, 53), world.TCP(30000, 80).On(e.f.NodeSecond()))
		b.Pod.Serve("udp", 53)
		lose(e)
		if cniErr, err := a.CheckHostport(); err != nil || cniErr == nil {
			e.Fatalf("nothing was lost: %v", err)
		}
		e.add("trigger", world.TCP(8082, 80)).Pod.Serve("tcp", 80)
		e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		e.reaches(e.w.Client, "udp", e.node(8053), "other")
		e.reaches(e.w.Client, "tcp", e.node(8082), "trigger")
		e.reaches(a.Pod.Netns, "tcp", e.node(8080), "web")
	}
}

// rebuilt damages the state file. The next ADD reads the owners back from the
// kernel: their ports stay theirs, and their DEL removes them.
func rebuilt(damage func(e *env, file string), aside bool) func(e *env) {
	return func(e *env) {
		a := e.web()
		file := filepath.Join(e.w.DataDir, "state.db")
		e.recovered = true
		damage(e, file)
		b := e.add("other", world.TCP(8081, 80))
		b.Pod.Serve("tcp", 80)
		e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		e.reaches(e.w.Client, "tcp", e.node(8081), "other")
		files, err := filepath.Glob(file + ".*")
		if err != nil || (len(files) > 0) != aside {
			e.Errorf("files moved aside: %q, want some: %v", files, aside)
		}
		e.refused(e.net, a, world.TCP(8080, 81))
	}
}

// otherBoot has the state of a node that was started anew: the records are
// there, of another boot, and the kernel is empty.
func otherBoot(e *env) {
	a := e.web()
	e.removeOurs()
	e.w.SetState("meta", "boot", "11111111-2222-4333-8444-555555555555")
	a.Pod.Close()
	e.forget(a)
	b := e.add("next", world.TCP(8081, 80))
	b.Pod.Serve("tcp", 80)
	e.reaches(e.w.Client, "tcp", e.node(8081), "next")
	e.w.Node.Serve("tcp", 8080)
	e.reaches(e.w.Client, "tcp", e.node(8080), "node")
	a.MustDel(e)
	e.reaches(e.w.Client, "tcp", e.node(8081), "next")
}
