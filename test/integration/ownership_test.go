package integration

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// ownershipScenarios are about two sandboxes that want one port.
func ownershipScenarios() []scenario {
	return []scenario{
		{name: "a living owner is named and kept", report: "nerdctl 2179, podman 17719", run: livingOwner},
		{name: "a wildcard and a host IP are in each other's way", report: "podman 17719", run: func(e *env) {
			holder := e.add("holder", world.TCP(8080, 80).On(e.f.Node()))
			e.refused(e.net, holder, world.TCP(8080, 81))
			e.refused(e.net, holder, world.TCP(8080, 81).On(e.f.Any()))
			e.del(holder)
			holder = e.add("holder", world.TCP(8080, 80).On(e.f.Any()))
			e.refused(e.net, holder, world.TCP(8080, 81))
			e.refused(e.net, holder, world.TCP(8080, 81).On(e.f.Node()))
		}},
		{name: "one port among many is enough to be refused", run: func(e *env) {
			holder := e.add("holder", world.UDP(8080, 80))
			e.refused(e.net, holder, world.TCP(8079, 81), world.UDP(8080, 81), world.TCP(8080, 81))
		}},
		{name: "different host IPs and protocols do not conflict", run: func(e *env) {
			e.add("first", world.TCP(8080, 80).On(e.f.Node())).Pod.Serve("tcp", 80)
			e.add("second", world.TCP(8080, 80).On(e.f.NodeSecond())).Pod.Serve("tcp", 80)
			e.add("third", world.UDP(8080, 80)).Pod.Serve("udp", 80)
			e.reaches(e.w.Client, "tcp", e.node(8080), "first")
			e.reaches(e.w.Client, "tcp", netip.AddrPortFrom(e.f.NodeSecond(), 8080), "second")
			e.reaches(e.w.Client, "udp", e.node(8080), "third")
		}},
		{name: "the wildcards of two families do not conflict", run: func(e *env) {
			n := e.network(world.NetworkOptions{Families: world.Families})
			e.addTo(n, "here", world.TCP(8080, 80).On(e.f.Any())).Pod.Serve("tcp", 80)
			e.addTo(n, "there", world.TCP(8080, 80).On(e.f.Other().Any())).Pod.Serve("tcp", 80)
			e.reaches(e.w.Client, "tcp", e.node(8080), "here")
			e.reaches(e.w.Client, "tcp", netip.AddrPortFrom(e.f.Other().Node(), 8080), "there")
		}},
		{name: "an owner in another network is an owner", run: func(e *env) {
			holder := e.web()
			e.refused(e.network(world.NetworkOptions{Name: "other", Second: true}), holder, world.TCP(8080, 81))
		}},
		{name: "the second interface of a container is another owner", report: "multus-cni 208", run: func(e *env) {
			a := e.web()
			second := e.network(world.NetworkOptions{Name: "second", Second: true})
			before := e.w.Ruleset()
			b, err := second.AddInterface(a.Pod, "net1", world.TCP(8080, 80))
			e.wantHeld(err, a)
			b.MustDel(e)
			e.sameRules("the refused interface's DEL", before)
		}},
	}
}

// deadOwnerScenarios are about owners that are gone without a DEL.
func deadOwnerScenarios() []scenario {
	return []scenario{
		{
			name: "a dead owner's port is taken over", report: "containernetworking/plugins 683, projectcalico/calico 3412, cri-o 4727",
			run: func(e *env) { deadOwner(e, false) },
		},
		{
			name: "a dead owner's port is taken over with its address", report: "projectcalico/calico 3412",
			run: func(e *env) { deadOwner(e, true) },
		},
		{name: "an address that came back leads no one else's port", report: "containernetworking/plugins 683", run: func(e *env) {
			a := e.web()
			a.Pod.Close()
			e.w.ForgetLeases()
			e.forget(a)
			b := e.add("next", world.TCP(8081, 80))
			b.Pod.Serve("tcp", 80)
			if a.Addr(e.f) != b.Addr(e.f) {
				e.Fatalf("the next pod got %s, not %s", b.Addr(e.f), a.Addr(e.f))
			}
			e.w.Node.Serve("tcp", 8080)
			e.reaches(e.w.Client, "tcp", e.node(8081), "next")
			e.reaches(e.w.Client, "tcp", e.node(8080), "node")
		}},
		{name: "ADD of the same container without mappings removes those it had", run: func(e *env) {
			e.webTo(e.net, "other", 8081)
			before := e.w.Ruleset()
			a := e.web()
			e.invoke(a.Invocation("ADD", world.Config{"runtimeConfig": nil}))
			e.forget(a)
			e.sameRules("ADD without mappings", before)
			e.reaches(e.w.Client, "tcp", e.node(8081), "other")
		}},
		{name: "ADD of the same container replaces its mappings", run: func(e *env) {
			a := e.add("web", world.TCP(8080, 80), world.TCP(8081, 80))
			a.Pod.Serve("tcp", 80)
			i := a.Invocation("ADD", world.Config{"runtimeConfig": world.Config{"portMappings": []world.Mapping{world.TCP(8082, 80)}}})
			if out := e.w.Invoke(i); out.ExitCode != 0 {
				e.Fatalf("ADD with other mappings: %s", out.Stdout)
			}
			e.w.Node.Serve("tcp", 8080)
			e.reaches(e.w.Client, "tcp", e.node(8082), "web")
			e.reaches(e.w.Client, "tcp", e.node(8080), "node")
			e.del(a)
			e.reaches(e.w.Client, "tcp", e.node(8080), "node")
		}},
	}
}

// refused wants an ADD to fail because of holder's port, to leave no trace,
// and the refused pod's DEL to do no harm.
func (e *env) refused(n *world.Network, holder *world.Attachment, mappings ...world.Mapping) {
	e.Helper()
	rules, state := e.w.Ruleset(), e.w.State()
	a, err := n.Add(e.w.NewPod("refused"), mappings...)
	e.wantHeld(err, holder)
	e.sameRules("a refused ADD", rules)
	if diff := cmp.Diff(state, e.w.State()); diff != "" {
		e.Errorf("state after a refused ADD (-want +got):\n%s", diff)
	}
	a.MustDel(e)
	e.sameRules("the refused pod's DEL", rules)
}

// wantHeld wants a CNI error that names the holder's pod and container.
func (e *env) wantHeld(err error, holder *world.Attachment) {
	e.Helper()
	cniErr, ok := errors.AsType[*types.Error](err)
	if !ok {
		e.Fatalf("ADD of a held port: %v, want a CNI error", err)
	}
	for _, want := range []string{"default/" + holder.Pod.Name, holder.Pod.ContainerID[:12], "8080/"} {
		if !strings.Contains(cniErr.Msg, want) {
			e.Errorf("the error does not name %s: %v", want, cniErr)
		}
	}
}

func livingOwner(e *env) {
	holder := e.web()
	e.refused(e.net, holder, world.TCP(8080, 81))
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
}

// deadOwner ends a sandbox without a DEL. The next pod takes the port over,
// and the DEL that comes late after all finds nothing that it may touch.
func deadOwner(e *env, sameAddress bool) {
	e.add("bystander", world.TCP(8081, 80))
	dead := e.web()
	dead.Pod.Close()
	e.forget(dead)
	if sameAddress {
		e.w.ForgetLeases()
		e.del(e.live[0]) // and its address, the first one, stays unused
		e.add("bystander", world.TCP(8081, 80))
	}
	next := e.add("next", world.TCP(8080, 80))
	next.Pod.Serve("tcp", 80)
	if (next.Addr(e.f) == dead.Addr(e.f)) != sameAddress {
		e.Fatalf("the next pod has the address %s, the dead one had %s", next.Addr(e.f), dead.Addr(e.f))
	}
	e.reaches(e.w.Client, "tcp", e.node(8080), "next")
	rules := e.w.Ruleset()
	if strings.Contains(e.w.Rules(e.f), dead.Pod.ContainerID[:12]) {
		e.Errorf("the dead owner is still in the rules:\n%s", e.w.Rules(e.f))
	}
	dead.MustDel(e)
	e.sameRules("the dead owner's late DEL", rules)
	e.reaches(e.w.Client, "tcp", e.node(8080), "next")
}
