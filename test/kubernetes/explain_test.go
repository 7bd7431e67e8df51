package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// explained brings the node into states in which a packet does not arrive, and wants
// hostportctl explain to say why, and list to say what a Service takes. A real packet
// shows each time what happens.
func explained(t *testing.T, c *cluster) {
	const port = 30081
	c.create(t, answerPod("holder", hostPort(corev1.ProtocolTCP, port, 80)))
	c.ready(t, "holder")
	ask := tcp(c.node.outside, onNode(port))
	c.answers(t, "holder", "port 30081 from outside", ask)
	c.explains(t, port, "ok")

	if _, err := c.node.command("iptables", "-I", "FORWARD", "1", "-p", "tcp", "--dport", "80", "-j", "DROP"); err != nil {
		t.Fatal(err)
	}
	silent(t, "with a rule that drops", ask)
	c.explains(t, port, "forward-dropped")
	if _, err := c.node.command("iptables", "-D", "FORWARD", "1"); err != nil {
		t.Fatal(err)
	}
	c.answers(t, "holder", "after the rule", ask)
	c.policyDrop(t, port, ask)
	c.serviceOnPort(t, port, ask)
	c.loopbackOnly(t)
}

// policyDrop has the policy of FORWARD drop, as Docker sets it.
func (c *cluster) policyDrop(t *testing.T, port int32, ask question) {
	t.Helper()
	if _, err := c.node.command("iptables", "-P", "FORWARD", "DROP"); err != nil {
		t.Fatal(err)
	}
	// kube-proxy's iptables mode accepts what it has marked, which is not ours.
	silent(t, "with a policy that drops", ask)
	c.explains(t, port, "forward-dropped")
	if _, err := c.node.command("iptables", "-P", "FORWARD", "ACCEPT"); err != nil {
		t.Fatal(err)
	}
	c.answers(t, "holder", "after the policy", ask)
}

// serviceOnPort has a NodePort of the same number.
func (c *cluster) serviceOnPort(t *testing.T, port int32, ask question) {
	t.Helper()
	c.create(t, answerPod("backend", corev1.ContainerPort{Protocol: corev1.ProtocolTCP, ContainerPort: 8080}))
	c.ready(t, "backend")
	c.create(t, nodePortService("backend", port, 8080))
	c.awaitNodePort(t, port)
	code, state := "service-first", "service first"
	if c.serviceWins() {
		c.answers(t, "backend", "the Service's port", ask)
	} else {
		// Two chains have the same priority, and the kernel does not tell which it asks first.
		code, state = "not-visible", ""
	}
	c.explains(t, port, code)
	listing, err := c.hostportctl("list", "--output", "json", "--port", fmt.Sprint(port))
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ HostPorts []struct{ State string } }
	if err := json.Unmarshal([]byte(listing), &list); err != nil || len(list.HostPorts) != 1 || list.HostPorts[0].State != state {
		t.Errorf("list (%v), want the state %q:\n%s", err, state, listing)
	}
	if !c.serviceWins() {
		c.probeDecides(t, port, ask)
	}
	if err := c.api.CoreV1().Services(namespace).Delete(t.Context(), "backend", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// probeDecides wants the packet of explain --probe to meet what a client's does.
func (c *cluster) probeDecides(t *testing.T, port int32, ask question) {
	t.Helper()
	var pod string
	c.await(t, "an answer", func(ctx context.Context) error {
		r, err := ask(ctx)
		pod = r.Pod
		return err
	})
	code, found := map[string]string{"holder": "ok", "backend": "service-first"}[pod]
	if !found {
		t.Fatalf("%q answered", pod)
	}
	c.explains(t, port, code, "--probe")
}

// loopbackOnly has a pod that listens where no packet from outside can arrive.
func (c *cluster) loopbackOnly(t *testing.T) {
	t.Helper()
	const port = 30082
	pod := answerPod("loopback", hostPort(corev1.ProtocolTCP, port, 80))
	pod.Spec.Containers[0].Args = []string{"serve", "tcp:127.0.0.1:80"}
	c.create(t, pod)
	c.ready(t, "loopback")
	silent(t, "of a pod that listens on its loopback", tcp(c.node.outside, onNode(port)))
	c.explains(t, port, "pod-not-listening")
}

// silent wants no answer.
func silent(t *testing.T, what string, ask question) {
	t.Helper()
	if r, err := ask(t.Context()); err == nil {
		t.Errorf("%q answered a packet %s", r.Pod, what)
	}
}

// explains wants explain to come to a code, for a client outside.
func (c *cluster) explains(t *testing.T, port int32, code string, more ...string) {
	t.Helper()
	args := append([]string{"explain", fmt.Sprint(port), "--output", "json", "--address", onNode(port).Addr().String()}, more...)
	var out string
	c.await(t, fmt.Sprintf("explain %d to say %s", port, code), func(context.Context) error {
		// It fails if the packet does not reach the pod.
		out, _ = c.hostportctl(args...)
		var report struct{ Code, Sentence string }
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if report.Code != code {
			return fmt.Errorf("code %q: %s", report.Code, report.Sentence)
		}
		return nil
	})
}
