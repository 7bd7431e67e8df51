package kubernetes

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// mission is what the plugin is for: a pod behind port 81 of the node, one in
// the node's own network, and a Service beside them.
func mission(t *testing.T, c *cluster) {
	c.create(t, manifests(t, "testdata/mission.yaml")...)
	c.create(t, answerPod("neighbour", corev1.ContainerPort{Protocol: corev1.ProtocolTCP, ContainerPort: 8080}))
	web, agent, neighbour := c.ready(t, "web"), c.ready(t, "agent"), c.ready(t, "neighbour")

	for _, f := range c.families() {
		seen := c.answers(t, web.Name, "port 81 from outside", tcp(c.node.outside, f.onNode(81)))
		wantClient(t, seen, f.outside.Addr())
		c.answers(t, web.Name, "port 81 from the node", tcp(c.node.network, f.onNode(81)))
		c.answers(t, web.Name, "port 81 from another pod", c.fromPod(neighbour, f.onNode(81)))
		c.answers(t, web.Name, "port 81 from itself", c.fromPod(web, f.onNode(81)))

		seen = c.answers(t, agent.Name, "port 9697 from outside", tcp(c.node.outside, f.onNode(9697)))
		wantClient(t, seen, f.outside.Addr())
		c.answers(t, agent.Name, "port 9697 from the node", tcp(c.node.network, f.onNode(9697)))
		c.answers(t, agent.Name, "port 9697 from another pod", c.fromPod(neighbour, f.onNode(9697)))
		c.answers(t, agent.Name, "port 9697 from itself", c.fromPod(agent, f.onNode(9697)))

		c.answers(t, web.Name, "the node port from outside", tcp(c.node.outside, f.onNode(30001)))
		c.answers(t, web.Name, "the node port from the node", tcp(c.node.network, f.onNode(30001)))

		address := addressOf(t, web, f)
		if err := c.mapped(81, address.String()); err != nil {
			t.Error(err)
		}
		if c.backend == "iptables" {
			wantOneDNAT(t, c, f, "dpt:81", "to:"+netip.AddrPortFrom(address, 80).String())
		}
	}
	if c.families()[0] == ipv4 {
		c.answers(t, web.Name, "port 81 of localhost", tcp(c.node.network, onLocalhost(81)))
	}
	c.consistent(t, 1)
	if err := c.none(ofPort(9697)); err != nil {
		t.Error(err)
	}
	sockets, err := c.node.command("ss", "-ltn")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(sockets, ":81 ") {
		t.Errorf("something listens on port 81:\n%s", sockets)
	}
}

// addressOf returns the pod's address of a family.
func addressOf(t *testing.T, p *corev1.Pod, f family) netip.Addr {
	t.Helper()
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil && f.pods.Contains(a) {
			return a
		}
	}
	t.Fatalf("%s has no %s address: %v", p.Name, f, p.Status.PodIPs)
	return netip.Addr{}
}

// wantClient wants the pod to have seen the client's own address.
func wantClient(t *testing.T, seen reply, want netip.Addr) {
	t.Helper()
	got, err := netip.ParseAddrPort(seen.Client)
	if err != nil {
		t.Fatal(err)
	}
	if got.Addr().Unmap() != want {
		t.Errorf("%s saw the client as %s, want %s", seen.Pod, got.Addr(), want)
	}
}

// wantOneDNAT looks as an operator would.
func wantOneDNAT(t *testing.T, c *cluster, f family, port, destination string) {
	t.Helper()
	tool := "iptables"
	if f == ipv6 {
		tool = "ip6tables"
	}
	listing, err := c.node.command(tool, "-t", "nat", "-L", "-nv")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(listing) {
		if strings.Contains(line, "DNAT") && strings.Contains(line, port+" ") {
			found = append(found, line)
		}
	}
	if len(found) != 1 || !strings.Contains(found[0], destination) {
		t.Errorf("want one DNAT line with %s and %s, got:\n%s", port, destination, strings.Join(found, ""))
	}
}
