package integration

import (
	"net/netip"
	"strings"

	"github.com/hostport-cni/hostport/test/world"
)

// reachScenarios are about who reaches a pod, and who is left alone.
func reachScenarios() []scenario {
	return []scenario{
		{name: "tcp from outside keeps the client's address", report: "kubernetes 29742, flannel 1528", run: func(e *env) {
			e.web()
			e.reachesAs(e.w.Client, "tcp", e.node(8080), "web", e.f.Client())
			e.reachesAs(e.w.Elsewhere, "tcp", e.node(8080), "web", e.f.Elsewhere())
		}},
		{name: "udp from outside keeps the client's address", run: func(e *env) {
			e.add("dns", world.UDP(8053, 53)).Pod.Serve("udp", 53)
			e.reachesAs(e.w.Client, "udp", e.node(8053), "dns", e.f.Client())
		}},
		{name: "every address of the node", run: func(e *env) {
			e.web()
			e.reaches(e.w.Client, "tcp", netip.AddrPortFrom(e.f.NodeSecond(), 8080), "web")
			e.reaches(e.w.Client, "tcp", netip.AddrPortFrom(e.f.Gateway(), 8080), "web")
		}},
		{name: "the node through its own address", run: func(e *env) {
			e.web()
			e.reaches(e.w.Node, "tcp", e.node(8080), "web")
		}},
		{name: "the node through 127.0.0.1", report: "containernetworking/plugins 763", families: v4Only, run: func(e *env) {
			e.web()
			e.add("dns", world.UDP(8053, 53)).Pod.Serve("udp", 53)
			e.reachesAs(e.w.Node, "tcp", netip.AddrPortFrom(e.f.Loopback(), 8080), "web", e.f.Gateway())
			e.reachesAs(e.w.Node, "udp", netip.AddrPortFrom(e.f.Loopback(), 8053), "dns", e.f.Gateway())
		}},
		{name: "the node through a mapping on 127.0.0.1 alone", families: v4Only, run: func(e *env) {
			e.add("web", world.TCP(8080, 80).On(e.f.Loopback())).Pod.Serve("tcp", 80)
			e.w.Node.ServeOn("tcp", e.node(8080))
			e.reaches(e.w.Node, "tcp", netip.AddrPortFrom(e.f.Loopback(), 8080), "web")
			e.reaches(e.w.Client, "tcp", e.node(8080), "node")
		}},
		{name: "the pod itself", report: "containernetworking/plugins 68", run: hairpin},
		{name: "the pod itself without bridge netfilter", node: world.Options{NoBridgeNetfilter: true}, run: hairpin},
		{name: "a pod on the same bridge", report: "talos 12617", run: neighbour},
		{
			name: "a pod on the same bridge without bridge netfilter", report: "containernetworking/plugins 68",
			node: world.Options{NoBridgeNetfilter: true}, run: neighbour,
		},
		{name: "a pod on another bridge keeps its address", run: func(e *env) {
			e.web()
			other := e.addTo(e.network(world.NetworkOptions{Name: "other", Second: true}), "other")
			e.reachesAs(other.Pod.Netns, "tcp", e.node(8080), "web", other.Addr(e.f))
		}},
		{name: "a routed pod", run: routed},
		{name: "a bridge that masquerades its pods", run: func(e *env) {
			n := e.network(world.NetworkOptions{MainConfig: world.Config{"ipMasq": true}})
			a := e.addTo(n, "web", world.TCP(8080, 80))
			a.Pod.Serve("tcp", 80)
			other := e.addTo(n, "other")
			e.reachesAs(e.w.Client, "tcp", e.node(8080), "web", e.f.Client())
			e.reaches(a.Pod.Netns, "tcp", e.node(8080), "web")
			e.reaches(other.Pod.Netns, "tcp", e.node(8080), "web")
		}},
	}
}

// hostIPScenarios are about which addresses and ports are mapped.
func hostIPScenarios() []scenario {
	return []scenario{
		{name: "host IP", run: hostIP},
		{name: "host IP beside a wildcard of the same pod", run: func(e *env) {
			a := e.add("web", world.TCP(8080, 80), world.TCP(8080, 81).On(e.f.NodeSecond()))
			a.Pod.Serve("tcp", 80)
			second := a.Pod.Serve("tcp", 81)
			e.reaches(e.w.Client, "tcp", netip.AddrPortFrom(e.f.NodeSecond(), 8080), "web")
			if len(second.Seen()) != 1 {
				e.Error("the wildcard won over the host IP")
			}
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			if len(second.Seen()) != 1 {
				e.Error("the host IP is served on other addresses")
			}
		}},
		{name: "host IP in another spelling", run: func(e *env) {
			e.add("web", world.Mapping{HostPort: 8080, ContainerPort: 80, Protocol: "TCP", HostIP: e.f.Any().String()}).Pod.Serve("tcp", 80)
			e.reachesAs(e.w.Client, "tcp", e.node(8080), "web", e.f.Client())
		}},
		{name: "tcp and udp of one port lead to different pods", run: func(e *env) {
			e.add("stream", world.TCP(8053, 53)).Pod.Serve("tcp", 53)
			e.add("datagram", world.UDP(8053, 53)).Pod.Serve("udp", 53)
			e.reaches(e.w.Client, "tcp", e.node(8053), "stream")
			e.reaches(e.w.Client, "udp", e.node(8053), "datagram")
		}},
		{name: "sctp is programmed", run: func(e *env) {
			a := e.add("signal", world.Mapping{HostPort: 3868, ContainerPort: 3869, Protocol: "sctp"})
			rules := e.w.Rules(e.f)
			for _, want := range []string{"sctp", "3868", "3869", a.Addr(e.f).String()} {
				if !strings.Contains(rules, want) {
					e.Errorf("rules do not mention %s:\n%s", want, rules)
				}
			}
		}},
		{name: "the lowest and the highest port", run: func(e *env) {
			a := e.add("edge", world.TCP(1, 65535), world.TCP(65535, 1))
			a.Pod.Serve("tcp", 65535)
			a.Pod.Serve("tcp", 1)
			e.reaches(e.w.Client, "tcp", e.node(1), "edge")
			e.reaches(e.w.Client, "tcp", e.node(65535), "edge")
		}},
		{name: "both families of a dual-stack pod", run: func(e *env) {
			n := e.network(world.NetworkOptions{Families: world.Families})
			e.addTo(n, "web", world.TCP(8080, 80)).Pod.Serve("tcp", 80)
			for _, f := range world.Families {
				e.reachesAs(e.w.Client, "tcp", netip.AddrPortFrom(f.Node(), 8080), "web", f.Client())
			}
		}},
		{name: "host IP of one family on a dual-stack pod", report: "containernetworking/plugins 378", run: func(e *env) {
			n := e.network(world.NetworkOptions{Families: world.Families})
			e.addTo(n, "web", world.TCP(8080, 80).On(e.f.Any())).Pod.Serve("tcp", 80)
			e.w.Node.Serve("tcp", 8080)
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.reaches(e.w.Client, "tcp", netip.AddrPortFrom(e.f.Other().Node(), 8080), "node")
		}},
		{name: "host IP of a family that the pod lacks", report: "containernetworking/plugins 378", run: func(e *env) {
			e.w.Node.Serve("tcp", 8080)
			e.add("web", world.TCP(8080, 80).On(e.f.Other().Node()), world.TCP(8081, 80)).Pod.Serve("tcp", 80)
			e.reaches(e.w.Client, "tcp", e.node(8081), "web")
			e.reaches(e.w.Client, "tcp", netip.AddrPortFrom(e.f.Other().Node(), 8080), "node")
			e.reaches(e.w.Client, "tcp", e.node(8080), "node")
		}},
	}
}

// extentScenarios are about how much is mapped, and what is left alone.
func extentScenarios() []scenario {
	return []scenario{
		{name: "500 mappings on one pod", run: manyMappings},
		{name: "two networks on one pod", report: "multus-cni 208", run: twoInterfaces},
		{name: "nothing listens on the node", run: func(e *env) {
			e.add("web", world.TCP(8080, 80), world.UDP(8080, 80))
			e.w.Node.Serve("tcp", 9999)
			sockets := e.w.Node.Command("cat", "/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6")
			if !strings.Contains(sockets, ":270F ") {
				e.Fatal("the list of sockets lacks the one that is there")
			}
			if strings.Contains(sockets, ":1F90 ") {
				e.Errorf("a socket is bound to the host port:\n%s", sockets)
			}
		}},
		{name: "passing traffic is left alone", report: "containernetworking/plugins 1209", run: passing(world.TCP(8080, 80))},
		{name: "passing traffic is left alone with a host IP", report: "GHSA-jv3w-x3r3-g6rm", run: func(e *env) {
			passing(world.TCP(8080, 80).On(e.f.Node()))(e)
		}},
		{name: "a host IP that is not the node's hijacks nothing", report: "GHSA-jv3w-x3r3-g6rm", run: func(e *env) {
			passing(world.TCP(8080, 80).On(e.f.Elsewhere()))(e)
		}},
	}
}

// hairpin asks from inside the pod, where the answer would otherwise come
// from the pod's own address and be dropped by its own connection.
func hairpin(e *env) {
	a := e.web()
	e.reachesAs(a.Pod.Netns, "tcp", e.node(8080), "web", e.f.Gateway())
	b := e.add("dns", world.UDP(8053, 53))
	b.Pod.Serve("udp", 53)
	e.reachesAs(b.Pod.Netns, "udp", e.node(8053), "dns", e.f.Gateway())
}

// neighbour asks from a pod in the same subnet, to which the server would
// answer without the node.
func neighbour(e *env) {
	e.web()
	other := e.add("other")
	e.reachesAs(other.Pod.Netns, "tcp", e.node(8080), "web", e.f.Gateway())
}

// routed is a pod behind a veth of its own, with a /32 or /128 route.
func routed(e *env) {
	n := e.network(world.NetworkOptions{Main: "ptp"})
	a := e.addTo(n, "web", world.TCP(8080, 80))
	a.Pod.Serve("tcp", 80)
	other := e.addTo(n, "other")
	e.reachesAs(e.w.Client, "tcp", e.node(8080), "web", e.f.Client())
	e.reaches(e.w.Node, "tcp", e.node(8080), "web")
	e.reaches(a.Pod.Netns, "tcp", e.node(8080), "web")
	e.reaches(other.Pod.Netns, "tcp", e.node(8080), "web")
	if e.f == world.V4 {
		e.reaches(e.w.Node, "tcp", netip.AddrPortFrom(e.f.Loopback(), 8080), "web")
	}
}

// hostIP maps the port on one address of the node, and leaves the other one to
// a process of the node.
func hostIP(e *env) {
	e.add("web", world.TCP(8080, 80).On(e.f.NodeSecond())).Pod.Serve("tcp", 80)
	e.w.Node.Serve("tcp", 8080)
	second := netip.AddrPortFrom(e.f.NodeSecond(), 8080)
	e.reachesAs(e.w.Client, "tcp", second, "web", e.f.Client())
	e.reaches(e.w.Node, "tcp", second, "web")
	e.reaches(e.w.Client, "tcp", e.node(8080), "node")
	e.reaches(e.w.Node, "tcp", e.node(8080), "node")
}

func manyMappings(e *env) {
	var mappings []world.Mapping
	for i := range 500 {
		mappings = append(mappings, world.TCP(20000+7*i, 1000+i))
	}
	a := e.add("many", mappings...)
	for _, i := range []int{0, 249, 499} {
		s := a.Pod.Serve("tcp", 1000+i)
		e.reaches(e.w.Client, "tcp", e.node(uint16(20000+7*i)), "many")
		if len(s.Seen()) != 1 {
			e.Errorf("host port %d did not lead to container port %d", 20000+7*i, 1000+i)
		}
	}
}

// twoInterfaces attaches one container twice. Each attachment owns its ports.
func twoInterfaces(e *env) {
	second := e.network(world.NetworkOptions{Name: "second", Second: true})
	a := e.add("web", world.TCP(8080, 80))
	a.Pod.Serve("tcp", 80)
	b, err := second.AddInterface(a.Pod, "net1", world.TCP(8081, 80))
	if err != nil {
		e.Fatalf("ADD of the second interface: %v", err)
	}
	e.live = append(e.live, b)
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	e.reaches(e.w.Client, "tcp", e.node(8081), "web")
	e.del(b)
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	e.w.Client.Silence(e, "tcp", e.node(8081))
	if b, err = second.AddInterface(a.Pod, "net1", world.TCP(8081, 80)); err != nil {
		e.Fatalf("ADD of the second interface again: %v", err)
	}
	e.live = append(e.live, b)
	e.del(a)
	e.checks(b)
}

// passing sends packets through the node to the same port elsewhere.
func passing(m world.Mapping) func(e *env) {
	return func(e *env) {
		a := e.add("web", m)
		a.Pod.Serve("tcp", 80)
		e.w.Elsewhere.Serve("tcp", 8080)
		to := netip.AddrPortFrom(e.f.Elsewhere(), 8080)
		e.reachesAs(e.w.Client, "tcp", to, "elsewhere", e.f.Client())
		e.reachesAs(a.Pod.Netns, "tcp", to, "elsewhere", a.Addr(e.f))
		e.reaches(e.w.Node, "tcp", to, "elsewhere")
	}
}
