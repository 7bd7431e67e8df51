package agent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/hostport-cni/hostport/test/kubeapi"
	"github.com/hostport-cni/hostport/test/world"
)

// TestPodPorts has a runtime that sends no host ports, which is CRI-O, and the
// agent that knows them from the API server.
func TestPodPorts(t *testing.T) {
	n, _ := newNode(t, world.NFTables, "hostport")
	api := kubeapi.New(t)
	var l net.Listener
	n.w.Node.Do(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	api.ServeOn(t, l)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: test}}]
clusters: [{name: test, cluster: {server: "http://%s"}}]
users: [{name: test, user: {}}]
`, l.Addr()), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start("--pod-ports", "--kubeconfig", kubeconfig, "--node-name", kubeapi.Node)
	n.awaitReady()
	if !strings.Contains(strings.ReplaceAll(n.conflist(), " ", ""), `"podPorts":"agent"`) {
		t.Fatalf("the entry does not say to ask the agent:\n%s", n.conflist())
	}

	network := n.network()
	pod := func(name string) *world.Pod {
		p := n.w.NewPod(name)
		p.Serve("tcp", 80)
		return p
	}
	web := pod("web")
	api.Add(kubeapi.Pod("web", web.UID, corev1.ContainerPort{HostPort: 8080, ContainerPort: 80, Protocol: corev1.ProtocolTCP}))
	a, err := network.Add(web)
	if err != nil {
		t.Fatal(err)
	}
	n.reaches(8080, "web")
	if out := n.w.Ctl("doctor", "--conf-dir", n.conf, "--crio-config", "/nowhere"); !strings.Contains(string(out.Stdout), "hostport-agent answers at") {
		t.Errorf("doctor does not find the agent:\n%s", out.Stdout)
	}

	if _, err := n.stop(syscall.SIGKILL); err == nil {
		t.Error("the agent survived")
	}
	late := pod("late")
	api.Add(kubeapi.Pod("late", late.UID))
	if refused, err := network.Add(late); err == nil || !strings.Contains(err.Error(), "the agent is not there") {
		t.Errorf("ADD without an agent: %v", err)
	} else if err := refused.Del(); err != nil {
		t.Error(err)
	}
	n.reaches(8080, "web")
	// The next one takes the place of one that was killed.
	n.start("--pod-ports", "--kubeconfig", kubeconfig, "--node-name", kubeapi.Node)
	n.awaitReady()
	if _, err := network.Add(n.w.NewPod("late")); err == nil {
		t.Error("a sandbox of a pod with another UID was added")
	}
	b, err := network.Add(late)
	if err != nil {
		t.Fatal(err)
	}
	b.MustDel(t)
	a.MustDel(t)

	// An agent that does not answer leaves no entry that says to ask it: the runtime's
	// word counts again.
	if out, err := n.stop(syscall.SIGTERM); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	n.start()
	n.awaitReady()
	if c, err := n.network().Add(n.w.NewPod("off")); err != nil {
		t.Errorf("ADD after --pod-ports was taken away: %v\n%s", err, n.conflist())
	} else {
		c.MustDel(t)
	}
}
