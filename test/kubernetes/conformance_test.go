package kubernetes

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The two conformance cases about host ports, by the names that they have
// upstream (test/e2e/network/hostport.go and test/e2e/scheduling/predicates.go of
// v1.34). The calls are theirs: ports, host IPs, what is bound to the node and
// what is left to the scheduler. The pods' program is this package's own, because
// no image can be pulled here, and where upstream tries five times an answer is
// wanted at once.

// e2ePod is a pod with one host port, served at 8080. Upstream's UDP pod has a
// readiness probe over HTTP on another port.
func e2ePod(name, hostIP string, port int32, protocol corev1.Protocol) *corev1.Pod {
	mapping := hostPort(protocol, port, 8080)
	mapping.HostIP = hostIP
	p := answerPod(name, mapping)
	probe := int32(8080)
	if protocol != corev1.ProtocolTCP {
		probe = 8008
		p.Spec.Containers[0].Args = append(p.Spec.Containers[0].Args, fmt.Sprintf("tcp:%d", probe))
	}
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: "/hostname", Port: intstr.FromInt32(probe), Scheme: corev1.URISchemeHTTP},
	}}
	return p
}

func noConflict(t *testing.T, c *cluster) {
	const port, localhost = 54323, "127.0.0.1"
	hostIP := c.internalIP(t)
	for _, p := range []*corev1.Pod{
		e2ePod("pod1", localhost, port, corev1.ProtocolTCP),
		e2ePod("pod2", hostIP, port, corev1.ProtocolTCP),
		e2ePod("pod3", hostIP, port, corev1.ProtocolUDP),
	} {
		p.Spec.NodeName = nodeName // as upstream: the scheduler is not asked
		c.create(t, p)
		c.ready(t, p.Name)
	}
	node := ipv4.node.Addr()
	// From the node's network, where upstream has a pod with hostNetwork:
	// curl --interface HOSTIP localhost, curl HOSTIP, nc -u HOSTIP.
	c.answers(t, "pod1", "localhost from the node's address", tcpFrom(c.node.network, node, onLocalhost(port)))
	c.answers(t, "pod2", "the node's address", tcp(c.node.network, onNode(port)))
	c.answers(t, "pod3", "the node's address over UDP", udp(c.node.network, onNode(port)))

	// More than upstream: localhost as itself, and the outside.
	c.answers(t, "pod1", "localhost", tcp(c.node.network, onLocalhost(port)))
	c.answers(t, "pod2", "the node's address from outside", tcp(c.node.outside, onNode(port)))
	c.answers(t, "pod3", "the node's address over UDP from outside", udp(c.node.outside, onNode(port)))
	c.consistent(t, 3)
	c.remove(t, false, "pod1", "pod2", "pod3")
	c.awaitNone(t, ofPort(port))
}

func conflict(t *testing.T, c *cluster) {
	const port = 54322
	onThisNode := map[string]string{corev1.LabelHostname: nodeName}
	pod4 := e2ePod("pod4", "", port, corev1.ProtocolTCP)
	pod4.Spec.NodeSelector = onThisNode
	c.create(t, pod4)
	c.ready(t, "pod4")

	pod5 := e2ePod("pod5", c.internalIP(t), port, corev1.ProtocolTCP)
	pod5.Spec.NodeSelector = onThisNode
	c.create(t, pod5)
	c.await(t, "pod5 to be refused by the scheduler", func(ctx context.Context) error {
		p, err := c.api.CoreV1().Pods(namespace).Get(ctx, "pod5", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range p.Status.Conditions {
			if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse && strings.Contains(condition.Message, "free ports") {
				return nil
			}
		}
		return fmt.Errorf("bound to %q: %v", p.Spec.NodeName, p.Status.Conditions)
	})
	c.answers(t, "pod4", "the port from outside", tcp(c.node.outside, onNode(port)))

	// More than upstream: bound past the scheduler, the kubelet refuses it.
	pod6 := e2ePod("pod6", c.internalIP(t), port, corev1.ProtocolTCP)
	pod6.Spec.NodeName = nodeName
	c.create(t, pod6)
	c.await(t, "pod6 to be refused by the kubelet", func(ctx context.Context) error {
		p, err := c.api.CoreV1().Pods(namespace).Get(ctx, "pod6", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if p.Status.Phase != corev1.PodFailed || !strings.Contains(p.Status.Message, "free ports") {
			return fmt.Errorf("%s: %s", p.Status.Phase, p.Status.Message)
		}
		return nil
	})
	c.answers(t, "pod4", "the port from outside", tcp(c.node.outside, onNode(port)))
}

// internalIP is the node's address as the API server has it.
func (c *cluster) internalIP(t *testing.T) string {
	t.Helper()
	n, err := c.api.CoreV1().Nodes().Get(t.Context(), nodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range n.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			return address.Address
		}
	}
	t.Fatalf("the node has no InternalIP: %v", n.Status.Addresses)
	return ""
}
