package integration

import (
	"fmt"
	"strings"
	"sync"

	"github.com/google/nftables"

	"github.com/hostport-cni/hostport/test/world"
)

// togetherScenarios are about several programs, or two backends, at work on
// one node.
func togetherScenarios() []scenario {
	return []scenario{
		{name: "foreign commits during 40 ADDs and DELs", report: "containernetworking/plugins 1115", run: foreignCommits},
		{name: "pods stay on the backend that they were added on", run: switchBackend},
		{name: "another backend's owner is an owner", run: func(e *env) {
			holder := e.web()
			other := e.otherBackend()
			e.refused(other, holder, world.TCP(8080, 81))
			e.webTo(other, "second", 8081)
			e.refused(e.net, holder, world.TCP(8080, 81))
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.reaches(e.w.Client, "tcp", e.node(8081), "second")
		}},
		{name: "a dead owner on another backend", run: func(e *env) {
			dead := e.web()
			dead.Pod.Close()
			e.forget(dead)
			e.webTo(e.otherBackend(), "next", 8080)
			e.reaches(e.w.Client, "tcp", e.node(8080), "next")
			if rules := e.w.Ruleset(); strings.Contains(fmt.Sprint(rules), dead.Pod.ContainerID) {
				e.Errorf("the dead owner is still in the rules: %+v", rules)
			}
		}},
		{name: "iptables that fails is no trouble of nftables'", backends: iptablesOnly, run: iptablesFails},
		{name: "nftables that fails is no trouble of iptables'", backends: iptablesOnly, run: nftablesFails},
		{name: "ADD again on another backend moves the pod", run: func(e *env) {
			a := e.web()
			i := a.Invocation("ADD", world.Config{"backend": otherConfig(e.w.Backend)})
			e.invoke(i)
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			if found := e.onBackends(); found != otherConfig(e.w.Backend) {
				e.Errorf("programmed on %s", found)
			}
			e.invoke(a.Invocation("ADD", nil))
			if found := e.onBackends(); found != e.w.Backend.Config() {
				e.Errorf("programmed on %s", found)
			}
		}},
	}
}

// iptablesFails has a change of iptables fail half-way, with its tools gone after.
func iptablesFails(e *env) {
	e.web()
	for _, tool := range allTools {
		e.w.ReplaceTool(tool, "echo no such table >&2; exit 3")
	}
	refused, err := e.net.Add(e.w.NewPod("refused"), world.TCP(8082, 80))
	if err == nil {
		e.Error("ADD succeeded with tools that fail")
	}
	for _, tool := range allTools {
		e.w.RemoveTool(tool)
	}
	other := e.otherBackend()
	second := e.webTo(other, "second", 8081)
	e.refusedFor(other, e.live[0], world.TCP(8080, 81))
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	e.reaches(e.w.Client, "tcp", e.node(8081), "second")
	if list := e.w.Ctl("list"); list.ExitCode != 0 || !strings.Contains(string(list.Stdout), "8080/tcp") || !strings.Contains(string(list.Stdout), "8081/tcp") {
		e.Errorf("hostportctl list: exit status %d\n%s%s", list.ExitCode, list.Stdout, list.Stderr)
	}
	if err := other.Status(); err != nil {
		e.Errorf("STATUS of nftables: %v", err)
	}
	e.unavailable("iptables")
	e.del(second)
	e.w.Node.Serve("tcp", 8081)
	e.reaches(e.w.Client, "tcp", e.node(8081), "node")
	e.w.RestoreTools()
	refused.MustDel(e)
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
}

// nftablesFails has another process own table hostport, so that the kernel lets nobody
// else write to it (Linux 5.12).
func nftablesFails(e *env) {
	var owner *nftables.Conn
	e.w.Node.Do(func() (err error) {
		if owner, err = nftables.New(nftables.AsLasting()); err != nil {
			return err
		}
		owner.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "hostport", Flags: nftables.TableFlagOwner})
		return owner.Flush()
	})
	refused, err := e.otherBackend().Add(e.w.NewPod("refused"), world.TCP(8082, 80))
	if err == nil || !strings.Contains(err.Error(), "not permitted") {
		e.Errorf("ADD to a table that another process owns: %v", err)
	}
	e.web()
	e.del(e.webTo(e.net, "second", 8081))
	e.w.Node.Serve("tcp", 8081)
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	e.reaches(e.w.Client, "tcp", e.node(8081), "node")
	e.checks(e.live...)
	if err := e.net.Status(); err != nil {
		e.Errorf("STATUS of iptables: %v", err)
	}
	if err := owner.CloseLasting(); err != nil { // its table goes with it
		e.Fatal(err)
	}
	refused.MustDel(e)
}

// otherConfig is the configuration's name of the backend that a world has not.
func otherConfig(b world.Backend) string {
	if b == world.NFTables {
		return "iptables"
	}
	return "nftables"
}

// otherBackend is the scenario's network with a conflist that was changed to
// the other backend.
func (e *env) otherBackend() *world.Network {
	e.Helper()
	return e.network(world.NetworkOptions{Hostport: world.Config{"backend": otherConfig(e.w.Backend)}})
}

// onBackends tells which backends have programmed something.
func (e *env) onBackends() string {
	e.Helper()
	var found []string
	rules := e.w.Ruleset()
	if strings.Contains(rules.IptablesNFT+rules.Ip6tablesNFT+rules.IptablesLegacy+rules.Ip6tablesLegacy, "CNI-HP") {
		found = append(found, "iptables")
	}
	if strings.Contains(rules.NFTables, "table inet hostport") {
		found = append(found, "nftables")
	}
	return strings.Join(found, " and ")
}

// switchBackend changes the conflist while a pod runs, and deletes it by the
// new one.
func switchBackend(e *env) {
	a := e.web()
	other := e.otherBackend()
	b := e.webTo(other, "new", 8081)
	if found := e.onBackends(); found != "iptables and nftables" {
		e.Errorf("two pods on two backends are programmed on %s", found)
	}
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	e.reaches(e.w.Client, "tcp", e.node(8081), "new")
	e.invoke(a.Invocation("DEL", world.Config{"backend": otherConfig(e.w.Backend)}))
	e.forget(a)
	if found := e.onBackends(); found != otherConfig(e.w.Backend) {
		e.Errorf("after DEL of the old pod, programmed on %s", found)
	}
	e.reaches(e.w.Client, "tcp", e.node(8081), "new")
	e.checks(b)
}

// foreignCommits has two programs change rules of their own all the time,
// while 40 pods come and 20 go at once.
func foreignCommits(e *env) {
	stop := make(chan struct{})
	var foreign, all sync.WaitGroup
	for i := range 2 {
		script := fmt.Sprintf("add table ip foreign%[1]d\nadd chain ip foreign%[1]d c\ndelete table ip foreign%[1]d\n", i)
		foreign.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := e.w.Node.TryCommand(script, "nft", "-f", "-"); err != nil {
					e.Errorf("the foreign commit: %v", err)
					return
				}
			}
		})
	}
	pods := make([]*world.Pod, 40)
	for i := range pods {
		pods[i] = e.w.NewPod(fmt.Sprintf("pod%d", i))
	}
	send := func(verb string, i int) {
		all.Go(func() {
			if out := e.w.Invoke(e.bare(verb, pods[i], i)); out.ExitCode != 0 {
				e.Errorf("%s of pod %d: %s%s", verb, i, out.Stdout, out.Stderr)
			}
		})
	}
	for i := range pods {
		send("ADD", i)
	}
	all.Wait()
	for i := range 20 {
		send("DEL", i)
	}
	all.Wait()
	for i := range pods {
		if there := strings.Contains(e.w.Rules(e.f), pods[i].ContainerID); there != (i >= 20) {
			e.Errorf("pod %d is in the rules: %v", i, there)
		}
		if i >= 20 {
			send("CHECK", i)
		}
	}
	all.Wait()
	close(stop)
	foreign.Wait()
	for i := 20; i < 40; i++ {
		send("DEL", i)
	}
	all.Wait()
	e.sameRules("every DEL", e.before)
}

// bare is an invocation of the plugin alone, for a sandbox without an
// interface.
func (e *env) bare(verb string, p *world.Pod, i int) world.Invocation {
	address := fmt.Sprintf("10.244.1.%d/16", i+1)
	if e.f == world.V6 {
		address = fmt.Sprintf("fd00:10:244::1:%x/64", i+1)
	}
	return world.Invocation{
		Command: verb, ContainerID: p.ContainerID, IfName: "eth0", Netns: p.Path, Args: p.Args(),
		Stdin: e.w.Stdin(world.Config{
			"prevResult":    world.PrevResult(p.Path, address),
			"runtimeConfig": world.Config{"portMappings": []world.Mapping{world.TCP(8000+i, 80), world.UDP(8000+i, 80)}},
		}),
	}
}
