package kubernetes

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// serviceWins is false for the one pair that cannot promise it: kube-proxy's
// nftables chains and iptables' PREROUTING have the same, fixed priority, and
// which goes first depends on which was registered last.
func (p pair) serviceWins() bool { return p.backend != "iptables" || p.proxy != "nftables" }

// service gives one port of the node to a Service and to a pod. The Service
// gets the traffic, whichever came first, and the pod when the Service is gone.
func service(t *testing.T, c *cluster) {
	const port = 30080
	holder := answerPod("holder", hostPort(corev1.ProtocolTCP, port, 80))
	backend := answerPod("backend", corev1.ContainerPort{Protocol: corev1.ProtocolTCP, ContainerPort: 8080})
	c.create(t, backend)
	c.ready(t, "backend")

	c.create(t, holder.DeepCopy())
	c.ready(t, "holder")
	c.reaches(t, "holder", "before the Service", port)
	c.create(t, nodePortService("backend", port, 8080))
	c.awaitNodePort(t, port)
	c.sharedPort(t, port)

	c.remove(t, false, "holder")
	c.reaches(t, "backend", "alone from outside", port)
	c.create(t, holder.DeepCopy())
	c.ready(t, "holder")
	c.sharedPort(t, port)

	if err := c.api.CoreV1().Services(namespace).Delete(t.Context(), "backend", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.reaches(t, "holder", "after the Service", port)
}

// sharedPort wants the Service to get what comes for the port.
func (c *cluster) sharedPort(t *testing.T, port int32) {
	t.Helper()
	for _, f := range c.families() {
		if !c.serviceWins() {
			// All that is promised is that one of both is reached.
			var winner string
			c.await(t, "an answer", func(ctx context.Context) error {
				r, err := tcp(c.node.outside, f.onNode(port))(ctx)
				if err == nil && r.Pod != "backend" && r.Pod != "holder" {
					err = fmt.Errorf("%q answered", r.Pod)
				}
				winner = r.Pod
				return err
			})
			t.Logf("this time %s answers", winner)
			continue
		}
		c.answers(t, "backend", "from outside", tcp(c.node.outside, f.onNode(port)))
		c.answers(t, "backend", "from the node", tcp(c.node.network, f.onNode(port)))
	}
}

// reaches wants the pod to answer from outside, in each family.
func (c *cluster) reaches(t *testing.T, pod, what string, port int32) {
	t.Helper()
	for _, f := range c.families() {
		c.answers(t, pod, what+", "+f.String(), tcp(c.node.outside, f.onNode(port)))
	}
}

// awaitNodePort waits until kube-proxy has made rules for the port.
func (c *cluster) awaitNodePort(t *testing.T, port int32) {
	t.Helper()
	c.await(t, "kube-proxy", func(context.Context) error {
		lines, err := c.ruleset()
		if err != nil {
			return err
		}
		for _, line := range lines {
			if ofNodePort(port).MatchString(line) {
				return nil
			}
		}
		return fmt.Errorf("no rule for node port %d", port)
	})
}
