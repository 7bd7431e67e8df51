package kubernetes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// TestPodPorts is a node whose runtime sends the plugin no host ports, which is
// CRI-O: the agent knows them from the API server. containerd sends none to a
// plugin that does not declare the capability.
func TestPodPorts(t *testing.T) {
	t.Parallel()
	newCluster(t, pair{backend: "nftables", proxy: "nftables", newest: true, asks: true}).play(t, []scene{
		{"mission", mission},
		{"no conflict between host IPs and protocols", noConflict},
		{"static pod", staticPod},
		{"agent away", agentAway},
		{"API server away", apiAway},
	})
}

// startAgent starts hostport-agent, for the plugin's questions alone.
func (c *cluster) startAgent(t *testing.T) {
	t.Helper()
	if err := c.node.daemon("hostport-agent", "--no-install", "--pod-ports", "--kubeconfig", kubeconfig, "--node-name", nodeName,
		"--conf-dir", nodeCNI+"/net.d", "--metrics-address", ""); err != nil {
		t.Fatal(err)
	}
}

// staticPod is one that the kubelet has from a file: it has another UID than its
// mirror at the API server.
func staticPod(t *testing.T, c *cluster) {
	p := answerPod("static", hostPort(corev1.ProtocolTCP, 84, 8080))
	p.Namespace = namespace
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "POD_NAME", Value: "static"}}
	text, err := runtime.Encode(scheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion), p)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(c.node.file(staticPods), "static.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	mirror := c.ready(t, "static")
	if hash := mirror.Annotations["kubernetes.io/config.hash"]; hash == "" || hash == string(mirror.UID) {
		t.Errorf("the mirror pod's UID %s is the static pod's: %q", mirror.UID, hash)
	}
	c.answers(t, "static", "the port from outside", tcp(c.node.outside, onNode(84)))
	c.consistent(t, 1)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	c.await(t, "the static pod to be gone", func(ctx context.Context) error { return c.absent(ctx, mirror.Name) })
}

// agentAway has a pod wait for the agent, while another one goes on and a third
// goes away.
func agentAway(t *testing.T, c *cluster) {
	c.create(t, answerPod("first", hostPort(corev1.ProtocolTCP, 85, 8080)), answerPod("second", hostPort(corev1.ProtocolTCP, 86, 8080)))
	c.ready(t, "first")
	c.ready(t, "second")
	if err := c.node.kill("hostport-agent"); err != nil {
		t.Fatal(err)
	}
	c.create(t, answerPod("late", hostPort(corev1.ProtocolTCP, 87, 8080)))
	c.await(t, "an event that the agent is away", func(ctx context.Context) error {
		events, err := c.api.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=late"})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if strings.Contains(e.Message, "host ports of pod default/late are not known: the agent is not there") {
				return nil
			}
		}
		return fmt.Errorf("%d events, none of them says so", len(events.Items))
	})
	c.answers(t, "first", "a port from outside", tcp(c.node.outside, onNode(85)))
	c.remove(t, false, "second")
	c.awaitNone(t, ofPort(86))

	c.startAgent(t)
	c.ready(t, "late")
	c.answers(t, "late", "a port from outside", tcp(c.node.outside, onNode(87)))
}

// apiAway kills a pod's sandbox while the API server is away: the kubelet makes
// another one, and the agent knows the pod.
func apiAway(t *testing.T, c *cluster) {
	c.create(t, answerPod("known", hostPort(corev1.ProtocolTCP, 88, 8080)))
	c.ready(t, "known")
	if err := c.node.kill("kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	listing, err := c.node.command("ctr", "--address", criSocket, "--namespace", "k8s.io", "containers", "list")
	if err != nil {
		t.Fatal(err)
	}
	sandbox := c.holder(t)
	if !strings.Contains(listing, sandbox) {
		t.Fatalf("container %s holds the port, and containerd has\n%s", sandbox, listing)
	}
	if _, err := c.node.command("ctr", "--address", criSocket, "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", sandbox); err != nil {
		t.Fatal(err)
	}
	c.await(t, "another sandbox that holds the port", func(context.Context) error {
		if now := c.holder(t); now == sandbox {
			return fmt.Errorf("container %s still holds it", now)
		}
		return nil
	})
	c.answers(t, "known", "the port from outside", tcp(c.node.outside, onNode(88)))

	for _, d := range c.daemons() {
		if d[0] == "kube-apiserver" {
			if err := c.node.daemon(d[0], d[1:]...); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.await(t, "the API server", func(ctx context.Context) error {
		_, err := c.api.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// holder returns the container of the only attachment on record, or "".
func (c *cluster) holder(t *testing.T) string {
	t.Helper()
	var out string
	if err := c.try(func(context.Context) error {
		listing, err := c.hostportctl("list", "--output", "wide")
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSpace(listing), "\n")
		if len(lines) != 2 {
			return fmt.Errorf("want one attachment:\n%s", listing)
		}
		for _, word := range strings.Fields(lines[1]) {
			if len(word) == 64 {
				out = word
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}
