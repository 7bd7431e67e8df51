package kubernetes

import (
	"cmp"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// containerdRestarted kills containerd with pods running, which go on.
func containerdRestarted(t *testing.T, c *cluster) {
	const first, second = 18083, 18084
	c.create(t, answerPod("before", hostPort(corev1.ProtocolTCP, first, 80)))
	before := c.ready(t, "before")
	c.answers(t, "before", "while containerd runs", tcp(c.node.outside, onNode(first)))

	if err := c.node.kill("containerd"); err != nil {
		t.Fatal(err)
	}
	c.answers(t, "before", "without containerd", tcp(c.node.outside, onNode(first)))
	c.startContainerd(t)
	c.answers(t, "before", "with containerd again", tcp(c.node.outside, onNode(first)))

	c.create(t, answerPod("after", hostPort(corev1.ProtocolTCP, second, 80)))
	c.ready(t, "after")
	c.answers(t, "after", "its port", tcp(c.node.outside, onNode(second)))
	c.consistent(t, 2)
	c.remove(t, false, "before", "after")
	c.awaitNone(t, ofPort(first), ofPort(second), ofAddress(before.Status.PodIP))
}

// nodeRebooted ends everything on the node, and starts it again: the pods come
// back with new addresses, and nothing of before is in their way. One does not
// come back, and another has been given its port.
func nodeRebooted(t *testing.T, c *cluster) {
	const first, second, third = 18085, 18086, 18087
	c.create(t,
		answerPod("alone", hostPort(corev1.ProtocolTCP, first, 80)),
		answerDeployment("deployed", hostPort(corev1.ProtocolTCP, second, 80)),
		answerPod("gone", hostPort(corev1.ProtocolTCP, third, 80)))
	alone, deployed, gone := c.ready(t, "alone"), c.ready(t, "deployed"), c.ready(t, "gone")
	c.answers(t, "alone", "before", tcp(c.node.outside, onNode(first)))
	c.answers(t, deployed.Name, "before", tcp(c.node.outside, onNode(second)))
	c.answers(t, "gone", "before", tcp(c.node.outside, onNode(third)))

	// With kubelet dead the sandbox stays, and its record.
	if err := c.node.kill("kubelet"); err != nil {
		t.Fatal(err)
	}
	c.remove(t, true, "gone")
	c.create(t, answerPod("heir", hostPort(corev1.ProtocolTCP, third, 80)))
	if err := c.node.reboot(); err != nil {
		t.Fatal(err)
	}
	if err := c.none(ofPort(first), ofPort(second), ofPort(third)); err != nil {
		t.Fatalf("the test's own reboot: %v", err)
	}
	_, err := os.Stat(c.node.file(cmp.Or(c.dataDir, "/run/hostport")))
	if kept := err == nil; kept != (c.dataDir != "") {
		t.Fatalf("the test's own reboot: are there records of before: %v", kept)
	}
	c.start(t)

	// The API server's word is of before until kubelet has looked: ask the pods.
	c.answers(t, "alone", "after", tcp(c.node.outside, onNode(first)))
	c.answers(t, deployed.Name, "after", tcp(c.node.outside, onNode(second)))
	c.answers(t, "heir", "after", tcp(c.node.outside, onNode(third)))
	for _, pod := range []*corev1.Pod{alone, deployed, gone} {
		c.awaitNone(t, ofAddress(pod.Status.PodIP))
	}
	c.consistent(t, 3)
	c.answers(t, "heir", "after its dead owner's DEL", tcp(c.node.outside, onNode(third)))

	c.clear(t)
	c.awaitNone(t, ofPort(first), ofPort(second), ofPort(third))
}
