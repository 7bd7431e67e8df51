package kubernetes

import (
	"fmt"
	"regexp"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// crowd starts many pods at once: their sandboxes are made at the same time.
func crowd(t *testing.T, c *cluster) {
	const size, first = 30, 20001
	var names []string
	var ports []*regexp.Regexp
	for i := range int32(size) {
		name := fmt.Sprintf("crowd-%d", i)
		c.create(t, answerPod(name, hostPort(corev1.ProtocolTCP, first+i, 80)))
		names, ports = append(names, name), append(ports, ofPort(first+i))
	}
	for i, name := range names {
		c.ready(t, name)
		c.answers(t, name, "its port", tcp(c.node.outside, onNode(first+int32(i))))
	}
	c.consistent(t, size)
	c.remove(t, true, names...)
	c.awaitNone(t, ports...)
}
