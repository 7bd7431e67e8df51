package integration

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/hostport-cni/hostport/internal/podports"
	"github.com/hostport-cni/hostport/internal/podports/source"
	"github.com/hostport-cni/hostport/test/kubeapi"
	"github.com/hostport-cni/hostport/test/world"
)

// crio is a node whose runtime is CRI-O, with disable_hostport_mapping, and where
// the agent is asked for host ports.
type crio struct {
	*testing.T
	w       *world.World
	api     *kubeapi.API
	network *world.Network
	// stop ends the agent.
	stop func()
}

func newCRIO(t *testing.T, b world.Backend) *crio {
	w := world.New(t, world.Options{Backend: b})
	c := &crio{
		T: t, w: w, api: kubeapi.New(t),
		network: w.NewNetwork(world.NetworkOptions{
			CNIVersion: "1.0.0", Hostport: world.Config{"podPorts": "agent", "capabilities": nil},
		}),
	}
	c.start()
	return c
}

// start runs what the agent does for the plugin.
func (c *crio) start() {
	c.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	pods := source.New(c.api.Client(c), kubeapi.Node, slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	running.Go(func() { pods.Run(ctx) })
	running.Go(func() {
		if err := podports.Serve(ctx, c.w.DataDir, pods, slog.New(slog.DiscardHandler)); err != nil {
			c.Errorf("serve the plugin: %v", err)
		}
	})
	c.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	c.Cleanup(c.stop)
	for podports.Ping(podports.Socket(c.w.DataDir)) != nil {
		time.Sleep(time.Millisecond)
	}
}

// pod makes a sandbox, and the API server's pod for it.
func (c *crio) pod(name string, ports ...corev1.ContainerPort) *world.Pod {
	c.Helper()
	p := c.w.NewPod(name)
	c.api.Add(kubeapi.Pod(name, p.UID, ports...))
	return p
}

// add is CRI-O's ADD, with all that it sends, and the CHECK that follows each.
func (c *crio) add(p *world.Pod) (*world.Attachment, error) {
	c.Helper()
	a, err := c.network.AddWith(p, "eth0", map[string]any{
		"cgroupPath":                        "kubepods-besteffort-pod00.slice",
		"io.kubernetes.cri.pod-annotations": map[string]string{"kubernetes.io/config.source": "api"},
	})
	if err != nil {
		return a, err
	}
	return a, a.Check()
}

func (c *crio) mustAdd(p *world.Pod) *world.Attachment {
	c.Helper()
	a, err := c.add(p)
	if err != nil {
		c.Fatalf("ADD and CHECK of %s: %v", p.Name, err)
	}
	return a
}

// del is CRI-O's end of a sandbox: DEL with the cached configuration, repeated,
// and once more when the namespace is gone.
func (c *crio) del(a *world.Attachment) {
	c.Helper()
	if err := errors.Join(a.Del(), a.Del(), a.DelWithout()); err != nil {
		c.Errorf("DEL of %s: %v", a.Pod.Name, err)
	}
}

// refused wants error 11, for which runtimes try again.
func (c *crio) refused(p *world.Pod, word string) {
	c.Helper()
	a, err := c.add(p)
	e, ok := errors.AsType[*types.Error](err)
	if !ok || e.Code != types.ErrTryAgainLater || !strings.Contains(e.Msg, word) {
		c.Errorf("ADD of %s: %v, want error %d with %q", p.Name, err, types.ErrTryAgainLater, word)
	}
	c.del(a)
}

func (c *crio) reaches(port uint16, server string) {
	c.Helper()
	for _, f := range world.Families {
		if got := c.w.Client.Ask(c, "tcp", netip.AddrPortFrom(f.Node(), port)); got.Server != server {
			c.Errorf("%s: port %d is answered by %s, want %s", f, port, got.Server, server)
		}
	}
}

func tcpPort(hostPort, containerPort int32) corev1.ContainerPort {
	return corev1.ContainerPort{HostPort: hostPort, ContainerPort: containerPort, Protocol: corev1.ProtocolTCP}
}

// TestCRIO is a pod's life under CRI-O, which sends no host ports.
func TestCRIO(t *testing.T) {
	for _, b := range world.Backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			c := newCRIO(t, b)
			before := c.w.Ruleset()

			// Neither a pod without host ports nor one in the node's own network
			// leaves anything: no process, no state.
			plain := c.mustAdd(c.pod("plain", corev1.ContainerPort{ContainerPort: 80}))
			host := c.w.NodeSandbox("host")
			hostPod := kubeapi.Pod("host", host.UID, tcpPort(9697, 9697))
			hostPod.Spec.HostNetwork = true
			c.api.Add(hostPod)
			passed, err := c.network.AddWith(c.w.NewPod("x"), "eth0", nil)
			if err == nil {
				t.Error("a pod that the API server does not know was added")
			}
			c.del(passed)
			out := c.w.Invoke(world.Invocation{
				Command: "ADD", ContainerID: host.ContainerID, IfName: "eth0", Netns: host.Path, Args: host.Args(),
				Stdin: c.w.Stdin(world.Config{"podPorts": "agent", "prevResult": world.PrevResult(host.Path, "10.244.0.9/24")}),
			})
			if out.ExitCode != 0 {
				t.Errorf("ADD of a pod in the node's own network: %s", out.Stdout)
			}
			if started := c.w.Started(); len(started) > 0 {
				t.Errorf("pods without host ports started %q", started)
			}
			if _, err := os.Stat(c.w.DataDir + "/state.db"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("pods without host ports made a state: %v", err)
			}

			webPod := c.pod("web", tcpPort(8080, 80))
			webPod.Serve("tcp", 80)
			web := c.mustAdd(webPod)
			c.reaches(8080, "web")
			late, err := c.add(c.pod("late", tcpPort(8080, 80)))
			if err == nil || !strings.Contains(err.Error(), "pod default/web") {
				t.Errorf("a taken port: %v, want its owner named", err)
			}
			c.del(late)
			c.reaches(8080, "web")

			// The kubelet's UID of a static pod is in the annotation of its mirror.
			static := c.w.NewPod("static-node-1")
			static.Serve("tcp", 80)
			mirror := kubeapi.Pod("static-node-1", "mirror", tcpPort(8081, 80))
			mirror.Annotations = map[string]string{"kubernetes.io/config.hash": static.UID}
			c.api.Add(mirror)
			staticAttachment := c.mustAdd(static)
			c.reaches(8081, "static-node-1")

			c.del(plain)
			c.del(web)
			c.del(staticAttachment)
			if after := c.w.Ruleset(); after != before {
				t.Errorf("rules are left:\n%+v", after)
			}
		})
	}
}

// TestCRIOAway takes the API server away, and then the agent: what was known is
// served, what is not is tried again, and a DEL needs neither.
func TestCRIOAway(t *testing.T) {
	t.Parallel()
	c := newCRIO(t, world.NFTables)
	before := c.w.Ruleset()
	early := c.pod("early", tcpPort(8080, 80))
	early.Serve("tcp", 80)
	a := c.mustAdd(early)

	c.api.Stop()
	c.refused(c.pod("unknown", tcpPort(8081, 80)), "the API server knows no pod default/unknown")
	// The sandbox of a pod that was known before ends and comes again.
	c.del(a)
	a = c.mustAdd(early)
	c.reaches(8080, "early")

	c.stop()
	c.refused(c.w.NewPod("late"), "the agent is not there")
	c.reaches(8080, "early")
	// An agent that starts while the API server is away knows nothing.
	c.start()
	c.refused(c.w.NewPod("early"), "has not yet said which pods")
	c.stop()

	c.del(a)
	if after := c.w.Ruleset(); after != before {
		t.Errorf("rules are left:\n%+v", after)
	}
}

// TestPodPortsOfBoth has a runtime that sends port mappings, and asks the agent all
// the same: if they differ, the runtime's are served, with a warning.
func TestPodPortsOfBoth(t *testing.T) {
	t.Parallel()
	c := newCRIO(t, world.NFTables)
	n := c.w.NewNetwork(world.NetworkOptions{Hostport: world.Config{"podPorts": "agent"}})
	p := c.pod("web", tcpPort(8080, 80))
	p.Serve("tcp", 80)
	a, err := n.Add(p, world.TCP(8081, 80))
	if err != nil {
		t.Fatal(err)
	}
	c.reaches(8081, "web")
	c.w.Client.Silence(t, "tcp", netip.AddrPortFrom(world.V4.Node(), 8080))
	out := c.w.Invoke(a.Invocation("CHECK", nil))
	if out.ExitCode != 0 || !strings.Contains(string(out.Stderr), "agent and runtime do not agree") || !strings.Contains(string(out.Stderr), "8080/tcp") {
		t.Errorf("CHECK: exit status %d, %s%s", out.ExitCode, out.Stdout, out.Stderr)
	}
	a.MustDel(t)
}
