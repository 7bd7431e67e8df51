package kubernetes

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// severalHostIPs is Kubernetes' own conformance case: one host port, on
// two addresses and for two protocols, is three different ports.
func severalHostIPs(t *testing.T, c *cluster) {
	const port = 54323
	mapping := func(hostIP string, protocol corev1.Protocol) corev1.ContainerPort {
		m := hostPort(protocol, port, 8080)
		m.HostIP = hostIP
		return m
	}
	node := nodeAddress.Addr()
	c.create(t,
		answerPod("on-localhost", mapping("127.0.0.1", corev1.ProtocolTCP)),
		answerPod("on-node", mapping(node.String(), corev1.ProtocolTCP)),
		answerPod("on-node-udp", mapping(node.String(), corev1.ProtocolUDP)))
	for _, name := range []string{"on-localhost", "on-node", "on-node-udp"} {
		c.ready(t, name)
	}

	c.answers(t, "on-localhost", "localhost", tcp(c.node.network, onLocalhost(port)))
	// The conformance test asks localhost from the node's address.
	c.answers(t, "on-localhost", "localhost from the node's address", tcpFrom(c.node.network, node, onLocalhost(port)))
	c.answers(t, "on-node", "the node's address from the node", tcp(c.node.network, onNode(port)))
	c.answers(t, "on-node", "the node's address from outside", tcp(c.node.outside, onNode(port)))
	c.answers(t, "on-node-udp", "UDP from the node", udp(c.node.network, onNode(port)))
	c.answers(t, "on-node-udp", "UDP from outside", udp(c.node.outside, onNode(port)))

	c.consistent(t, 3)
	c.remove(t, false, "on-localhost", "on-node", "on-node-udp")
	c.awaitNone(t, ofPort(port))
}
