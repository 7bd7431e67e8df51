package kubernetes

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// deletion ends pods both ways, and makes them again under the same name.
func deletion(t *testing.T, c *cluster) {
	const port = 18080
	pod := answerPod("lonely", hostPort(corev1.ProtocolTCP, port, 80), hostPort(corev1.ProtocolUDP, port, 80))
	for _, force := range []bool{false, true, false} {
		c.create(t, pod.DeepCopy())
		address := c.ready(t, "lonely").Status.PodIP
		c.reaches(t, "lonely", "TCP", port)
		for _, f := range c.families() {
			c.answers(t, "lonely", "UDP, "+f.String(), udp(c.node.outside, f.onNode(port)))
		}
		if err := c.mapped(port, address); err != nil {
			t.Error(err)
		}

		c.remove(t, force, "lonely")
		if force {
			// The next one takes the port while kubelet still buries this one.
			heir := answerPod("heir", hostPort(corev1.ProtocolTCP, port, 80))
			c.create(t, heir)
			c.ready(t, "heir")
			c.reaches(t, "heir", "TCP", port)
			c.awaitNone(t, ofAddress(address))
			c.reaches(t, "heir", "TCP after the burial", port)
			c.remove(t, false, "heir")
		}
		c.awaitNone(t, ofAddress(address), ofPort(port))
	}
}

// rollout replaces the pod of a Deployment twice.
func rollout(t *testing.T, c *cluster) {
	const port = 18081
	deployment := answerDeployment("rolling", hostPort(corev1.ProtocolTCP, port, 80))
	c.create(t, deployment)
	old := c.ready(t, "rolling")
	c.answers(t, old.Name, "the first pod", tcp(c.node.outside, onNode(port)))

	before := []string{old.Name}
	for _, version := range []string{"2", "3"} {
		patch := []byte(`{"spec":{"template":{"metadata":{"annotations":{"version":"` + version + `"}}}}}`)
		c.await(t, "the Deployment to be changed", func(ctx context.Context) error {
			_, err := c.api.AppsV1().Deployments(namespace).Patch(ctx, "rolling",
				"application/strategic-merge-patch+json", patch, metav1.PatchOptions{})
			return err
		})
		fresh := c.ready(t, "rolling", before...)
		c.answers(t, fresh.Name, "version "+version, tcp(c.node.outside, onNode(port)))
		c.awaitNone(t, ofAddress(old.Status.PodIP))
		c.answers(t, fresh.Name, "version "+version, tcp(c.node.outside, onNode(port)))
		before, old = append(before, fresh.Name), fresh
	}
	c.clear(t)
	c.awaitNone(t, ofPort(port), ofAddress(old.Status.PodIP))
}

// udpFlow wants a client that never falls silent, and so keeps its conntrack
// entry alive, to get from pod to pod.
func udpFlow(t *testing.T, c *cluster) {
	const port = 18082
	mapping := hostPort(corev1.ProtocolUDP, port, 53)
	f := newFlow(t, c.node.outside, 40053, onNode(port))
	for i, name := range []string{"resolver-1", "resolver-2", "resolver-3"} {
		c.create(t, answerPod(name, mapping))
		c.ready(t, name)
		f.reaches(t, c, name)
		c.remove(t, i%2 == 1, name)
	}
	c.awaitNone(t, ofPort(port))
}
