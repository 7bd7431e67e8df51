package integration

import (
	"net/netip"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/answer"
	"github.com/hostport-cni/hostport/test/world"
)

// udpScenarios are about flows that conntrack remembers.
func udpScenarios() []scenario {
	return []scenario{
		{name: "a UDP flow that began before the pod reaches it", report: "containernetworking/plugins 123", run: func(e *env) {
			e.tracked()
			f := e.flow(e.w.Client, e.node(8053))
			e.w.Node.ServeOn("udp", e.node(8053))
			e.answered(f, "node")
			e.remembered()
			e.add("dns", world.UDP(8053, 53)).Pod.Serve("udp", 53)
			e.answered(f, "dns")
		}},
		{name: "a UDP flow that began when nobody was there", report: "containernetworking/plugins 123", run: func(e *env) {
			e.tracked()
			f := e.flow(e.w.Client, e.node(8053))
			if a, err := f.Ask(time.Second / 2); err == nil {
				e.Fatalf("answered by %s", a.Server)
			}
			e.remembered()
			e.add("dns", world.UDP(8053, 53)).Pod.Serve("udp", 53)
			e.answered(f, "dns")
		}},
		{name: "a UDP flow follows the port to the next pod", report: "containernetworking/plugins 1190, moby 53384", run: func(e *env) {
			e.tracked()
			f := e.flow(e.w.Client, e.node(8053))
			first := e.add("first", world.UDP(8053, 53))
			first.Pod.Serve("udp", 53)
			e.answered(f, "first")
			e.del(first)
			if flows := e.w.UDPFlows(8053); len(flows) > 0 {
				e.Errorf("entries after DEL: %q", flows)
			}
			e.add("second", world.UDP(8053, 53)).Pod.Serve("udp", 53)
			e.answered(f, "second")
		}},
		{name: "a UDP flow follows the port from a dead owner", report: "containernetworking/plugins 123", run: func(e *env) {
			e.tracked()
			f := e.flow(e.w.Client, e.node(8053))
			first := e.add("first", world.UDP(8053, 53))
			first.Pod.Serve("udp", 53)
			e.answered(f, "first")
			e.remembered()
			first.Pod.Close()
			e.forget(first)
			e.add("second", world.UDP(8053, 53)).Pod.Serve("udp", 53)
			e.answered(f, "second")
		}},
		{name: "a UDP flow of the node to itself follows", report: "containernetworking/plugins 123", run: func(e *env) {
			e.tracked()
			f := e.flow(e.w.Node, e.node(8053))
			e.w.Node.ServeOn("udp", e.node(8053))
			e.answered(f, "node")
			e.remembered()
			e.add("dns", world.UDP(8053, 53)).Pod.Serve("udp", 53)
			e.answered(f, "dns")
		}},
	}
}

// keptFlowScenarios are about flows that are none of the plugin's business.
func keptFlowScenarios() []scenario {
	return []scenario{
		{name: "UDP flows to the port elsewhere keep their entries", report: "containernetworking/plugins 1190, moby 53384", run: flowsElsewhere},
		{name: "UDP flows to another address of the node keep their entries", report: "moby 53384", run: func(e *env) {
			e.w.Node.ServeOn("udp", e.node(8053))
			e.tracked()
			f := e.flow(e.w.Client, e.node(8053))
			e.answered(f, "node")
			e.keepsFlows(8053, func() {
				e.del(e.add("dns", world.UDP(8053, 53).On(e.f.NodeSecond())))
			})
		}},
		{name: "UDP flows to other ports of the node keep their entries", report: "moby 53384", run: func(e *env) {
			e.add("other", world.UDP(8054, 53)).Pod.Serve("udp", 53)
			e.tracked()
			f := e.flow(e.w.Client, e.node(8054))
			e.answered(f, "other")
			e.keepsFlows(8054, func() { e.del(e.add("dns", world.UDP(8053, 53), world.TCP(8054, 53))) })
		}},
		{name: "a second ADD keeps the pod's flows", report: "moby 53384", run: func(e *env) {
			a := e.add("dns", world.UDP(8053, 53))
			a.Pod.Serve("udp", 53)
			e.tracked()
			f := e.flow(e.w.Client, e.node(8053))
			e.answered(f, "dns")
			e.invoke(a.Invocation("ADD", nil))
			e.answered(f, "dns")
		}},
	}
}

// tracked adds a pod that has nothing to do with the case: in a namespace
// without NAT rules the kernel does not track connections.
func (e *env) tracked() {
	e.Helper()
	e.add("bystander", world.TCP(9999, 99))
}

// remembered makes sure that conntrack has an entry that would be in the way.
func (e *env) remembered() {
	e.Helper()
	if len(e.w.UDPFlows(8053)) == 0 {
		e.Fatal("conntrack has no entry for the flow")
	}
}

// flow opens a UDP socket that keeps its source port.
func (e *env) flow(from *world.Netns, to netip.AddrPort) *answer.Flow {
	e.Helper()
	f, err := from.Dial("udp", netip.AddrPort{}, to, time.Second)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(f.Close)
	return f
}

// answered wants the flow's next question to be answered by one server.
func (e *env) answered(f *answer.Flow, server string) {
	e.Helper()
	f.Drain()
	got, err := f.Ask(answer.Timeout)
	if err != nil {
		e.Fatalf("the flow is not answered, want %s: %v; conntrack has %q", server, err, e.w.UDPFlows(8053))
	}
	if got.Server != server {
		e.Fatalf("the flow is answered by %s, want %s", got.Server, server)
	}
	f.Drain()
}

// keepsFlows wants every conntrack entry of a port to survive a step. The
// flows are not used during it, so that none comes back by itself.
func (e *env) keepsFlows(port int, step func()) {
	e.Helper()
	before := e.w.UDPFlows(port)
	if len(before) == 0 {
		e.Fatal("there is no flow to keep")
	}
	step()
	after := e.w.UDPFlows(port)
	for _, flow := range before {
		if !slices.Contains(after, flow) {
			e.Errorf("a flow was cut (-before +after):\n%s", cmp.Diff(before, after))
		}
	}
}

// flowsElsewhere has three flows that pass the node or leave it, to the same
// port as the mapping's.
func flowsElsewhere(e *env) {
	e.tracked()
	e.w.Elsewhere.Serve("udp", 8053)
	to := netip.AddrPortFrom(e.f.Elsewhere(), 8053)
	pod := e.add("client")
	for _, from := range []*world.Netns{e.w.Client, e.w.Node, pod.Pod.Netns} {
		e.answered(e.flow(from, to), "elsewhere")
	}
	if flows := e.w.UDPFlows(8053); len(flows) != 3 {
		e.Fatalf("want three flows: %q", flows)
	}
	e.keepsFlows(8053, func() {
		e.del(e.add("dns", world.UDP(8053, 53)))
	})
}
