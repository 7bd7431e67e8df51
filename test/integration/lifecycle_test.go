package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// lifecycleScenarios are about the verbs in orders that runtimes send them.
func lifecycleScenarios() []scenario {
	return []scenario{
		{name: "DEL without runtimeConfig", report: "rancher/rke 2999", run: delWith(world.Config{"runtimeConfig": nil})},
		{
			name: "DEL with empty port mappings", report: "rancher/rke 2999",
			run: delWith(world.Config{"runtimeConfig": world.Config{"portMappings": []world.Mapping{}}}),
		},
		{name: "DEL without prevResult", run: delWith(world.Config{"prevResult": nil})},
		{name: "DEL with a configuration that has gone bad", run: delWith(world.Config{
			"runtimeConfig": world.Config{"portMappings": "all"}, "markMasqBit": 99, "conditionsV4": 1, "backend": "ebtables", "prevResult": nil,
		})},
		{
			name: "DEL after the network was renamed", report: "containernetworking/plugins 752",
			run: delWith(world.Config{"name": "renamed", "prevResult": nil, "runtimeConfig": nil}),
		},
		{name: "DEL with the namespace gone", run: func(e *env) {
			e.add("bystander", world.TCP(8081, 80))
			before := e.w.Ruleset()
			a := e.web()
			a.Pod.Close()
			e.del(a)
			e.sameRules("DEL with the namespace gone", before)
		}},
		{name: "DEL with an empty CNI_NETNS", run: func(e *env) {
			e.add("bystander", world.TCP(8081, 80))
			before := e.w.Ruleset()
			a := e.web()
			i := a.Invocation("DEL", nil)
			i.Netns = ""
			e.invoke(i)
			e.forget(a)
			e.sameRules("DEL with an empty CNI_NETNS", before)
		}},
		{name: "DEL twice", report: "containernetworking/plugins 510", run: func(e *env) {
			e.add("bystander", world.TCP(8081, 80))
			before := e.w.Ruleset()
			a := e.web()
			e.del(a)
			e.sameRules("DEL", before)
			a.MustDel(e)
			e.sameRules("the second DEL", before)
		}},
		{name: "ADD twice, and ADD and DEL of another pod, leave the same bytes", families: v4Only, run: func(e *env) {
			n := e.network(world.NetworkOptions{Families: world.Families})
			a := e.addTo(n, "web", world.TCP(8080, 80), world.UDP(8080, 80), world.TCP(30000, 81).On(e.f.Node()))
			rules := e.w.Ruleset()
			e.invoke(a.Invocation("ADD", nil))
			e.sameRules("the same ADD again", rules)
			e.del(e.addTo(n, "other", world.TCP(8081, 80), world.UDP(20000, 80), world.TCP(30000, 81).On(e.f.NodeSecond())))
			e.sameRules("ADD and DEL of another pod", rules)
		}},
		{name: "DEL in parallel", report: "containernetworking/plugins 418", run: parallelDel},
		{name: "DEL of an attachment never seen", run: func(e *env) {
			e.web()
			before, state := e.w.Ruleset(), e.w.State()
			e.invoke(world.Invocation{
				Command: "DEL", ContainerID: "never-seen", IfName: "eth0", Netns: "/nowhere",
				Stdin: e.w.Stdin(nil),
			})
			e.sameRules("DEL of the unknown", before)
			if diff := cmp.Diff(state, e.w.State()); diff != "" {
				e.Errorf("state after DEL of the unknown (-want +got):\n%s", diff)
			}
		}},
	}
}

// podScenarios are about pods of every kind, and runtimes of every version.
func podScenarios() []scenario {
	return []scenario{
		{name: "many pods at once", report: "containernetworking/plugins 418", run: func(e *env) {
			e.live = manyPods(e, e.net, 12)
		}},
		{name: "the node's own namespace", run: hostNetwork},
		{name: "every version of the specification", families: v4Only, run: versions},
		{name: "VERSION lists the versions", backends: iptablesOnly[:1], families: v4Only, run: func(e *env) {
			out := e.w.Invoke(world.Invocation{Command: "VERSION", Stdin: []byte(`{"cniVersion":"1.0.0"}`)})
			var got struct{ SupportedVersions []string }
			if err := json.Unmarshal(out.Stdout, &got); err != nil {
				e.Fatalf("%v: %s", err, out.Stdout)
			}
			if diff := cmp.Diff([]string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}, got.SupportedVersions); diff != "" {
				e.Errorf("supportedVersions (-want +got):\n%s", diff)
			}
		}},
		{name: "a failed chain leaves nothing", run: func(e *env) {
			n := e.network(world.NetworkOptions{Hostport: world.Config{"markMasqBit": 99}})
			a, err := n.Add(e.w.NewPod("web"), world.TCP(8080, 80))
			if err == nil {
				e.Fatal("the configuration was accepted")
			}
			a.MustDel(e)
			e.sameRules("a refused ADD", e.before)
		}},
	}
}

// invoke runs a plugin that has to succeed.
func (e *env) invoke(i world.Invocation) world.Output {
	e.Helper()
	out := e.w.Invoke(i)
	if out.ExitCode != 0 {
		e.Fatalf("%s: exit code %d\n%s%s", i.Command, out.ExitCode, out.Stdout, out.Stderr)
	}
	return out
}

// delWith sends DEL with a changed configuration, beside a pod that stays.
func delWith(changes world.Config) func(e *env) {
	return func(e *env) {
		e.add("bystander", world.TCP(8081, 80))
		before := e.w.Ruleset()
		a := e.web()
		e.invoke(a.Invocation("DEL", changes))
		e.forget(a)
		e.sameRules("DEL", before)
		e.w.Node.Serve("tcp", 8080)
		e.reaches(e.w.Client, "tcp", e.node(8080), "node")
		// The port is free again, although the rest of the chain has not been
		// asked to delete.
		b := e.add("next", world.TCP(8080, 80))
		b.Pod.Serve("tcp", 80)
		e.reaches(e.w.Client, "tcp", e.node(8080), "next")
	}
}

// parallelDel sends the DELs of two pods four times each, all at once, to the
// plugin alone: the bridge plugin is not up to it.
func parallelDel(e *env) {
	e.add("bystander", world.TCP(8081, 80))
	before := e.w.Ruleset()
	victims := []*world.Attachment{e.web(), e.add("second", world.TCP(8082, 80))}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if out := e.w.Invoke(victims[i%2].Invocation("DEL", nil)); out.ExitCode != 0 {
				e.Errorf("DEL in parallel: %s%s", out.Stdout, out.Stderr)
			}
		})
	}
	all.Wait()
	// Chains may come in another order: which pod was deleted first is open.
	if diff := cmp.Diff(before.Sorted(), e.w.Ruleset().Sorted()); diff != "" {
		e.Errorf("ruleset after parallel DELs (-want +got):\n%s", diff)
	}
	for _, a := range victims {
		e.del(a)
	}
}

// manyPods adds pods in parallel, has each answer, and deletes every second
// one in parallel. It returns those that are left.
func manyPods(e *env, n *world.Network, count int) []*world.Attachment {
	e.Helper()
	pods := make([]*world.Pod, count)
	for i := range pods {
		pods[i] = e.w.NewPod(fmt.Sprintf("pod%d", i))
		pods[i].Serve("tcp", 80)
	}
	attachments := make([]*world.Attachment, count)
	var all sync.WaitGroup
	for i, p := range pods {
		all.Go(func() {
			var err error
			if attachments[i], err = n.Add(p, world.TCP(8000+i, 80), world.UDP(8000+i, 80)); err != nil {
				e.Errorf("ADD of %s in parallel: %v", p.Name, err)
			}
		})
	}
	all.Wait()
	if e.Failed() {
		e.FailNow()
	}
	for i, p := range pods {
		e.reaches(e.w.Client, "tcp", e.node(uint16(8000+i)), p.Name)
	}
	for i, a := range attachments {
		if i%2 == 0 {
			all.Go(func() {
				if err := a.Del(); err != nil {
					e.Errorf("DEL of %s in parallel: %v", a.Pod.Name, err)
				}
			})
		}
	}
	all.Wait()
	var left []*world.Attachment
	for i, a := range attachments {
		if i%2 == 1 {
			left = append(left, a)
			e.reaches(e.w.Client, "tcp", e.node(uint16(8000+i)), a.Pod.Name)
		}
	}
	return left
}

// hostNetwork is a pod without a sandbox of its own: the plugin hands the
// result on and does nothing.
func hostNetwork(e *env) {
	p := e.w.NodeSandbox("host-network")
	config := world.Config{
		"runtimeConfig": world.Config{"portMappings": []world.Mapping{world.TCP(8080, 80)}},
		"prevResult":    world.PrevResult(p.Path, netipPrefix(e.f)),
	}
	stdin := e.w.Stdin(config)
	i := world.Invocation{ContainerID: p.ContainerID, IfName: "eth0", Netns: p.Path, Args: p.Args(), Stdin: stdin}
	for _, verb := range []string{"ADD", "CHECK", "DEL"} {
		i.Command = verb
		out := e.invoke(i)
		if verb == "ADD" {
			samePrevResult(e, stdin, out)
		}
		e.sameRules(verb+" in the node's own namespace", e.before)
	}
	e.started("ADD, CHECK and DEL in the node's own namespace", []string(nil)...)
	if got := e.w.Started(); len(got) > 0 {
		e.Errorf("tools were started: %q", got)
	}
	if len(e.w.State()) > 0 {
		e.Errorf("state was made: %v", e.w.State())
	}
}

// versions attaches a pod with each version. Before 0.4.0 there is no CHECK.
func versions(e *env) {
	for i, v := range version.All.SupportedVersions() {
		if slices.Contains([]string{"0.1.0", "0.2.0"}, v) {
			continue
		}
		n := e.network(world.NetworkOptions{Name: fmt.Sprintf("net%d", i), CNIVersion: v})
		a, err := n.Add(e.w.NewPod("web"), world.TCP(8080, 80))
		if err != nil {
			e.Fatalf("ADD with %s: %v", v, err)
		}
		a.Pod.Serve("tcp", 80)
		e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		out := e.invoke(a.Invocation("ADD", nil))
		var result struct{ CNIVersion string }
		if err := json.Unmarshal(out.Stdout, &result); err != nil || result.CNIVersion != v {
			e.Errorf("ADD with %s answers with version %q, %v", v, result.CNIVersion, err)
		}
		if old, _ := version.GreaterThanOrEqualTo(v, "0.4.0"); old {
			if err := a.Check(); err != nil {
				e.Errorf("CHECK with %s: %v", v, err)
			}
		}
		a.MustDel(e)
	}
	out := e.w.Invoke(world.Invocation{
		Command: "ADD", ContainerID: "c", IfName: "eth0", Netns: e.w.NewPod("old").Path,
		Stdin: e.w.Stdin(world.Config{"cniVersion": "0.2.0"}),
	})
	cniErr, err := out.Error()
	if err != nil || cniErr == nil || cniErr.Code != types.ErrIncompatibleCNIVersion {
		e.Errorf("ADD with 0.2.0: %v, %v; want error 1", cniErr, errors.Join(err))
	}
}

// netipPrefix is an address of the node as a main plugin would report it.
func netipPrefix(f world.Family) string {
	if f == world.V4 {
		return f.Node().String() + "/24"
	}
	return f.Node().String() + "/64"
}
