package containerd

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// TestNerdctl calls the chain as nerdctl's OCI hook does: the container's
// process is there already and its namespace is named by it, every ADD is
// preceded by a DEL in case the container was restarted, there is no pod, and
// the last DEL comes when process and namespace are gone.
func TestNerdctl(t *testing.T) {
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			w := world.New(t, world.Options{Backend: backend})
			bridge := w.NetworkFromConflist(example(t, w, "20-nerdctl-bridge.conflist"))
			first := newNerdctlContainer(w, "first", bridge)
			second := newNerdctlContainer(w, "second", bridge)
			if err := first.start(t); err != nil {
				t.Fatal(err)
			}
			first.expect(t)

			// The port has an owner, and the message says which container.
			// nerdctl makes no DEL after an ADD that failed.
			before := published(w)
			err := second.start(t)
			if err == nil {
				t.Fatal("a second container took port 8080")
			}
			if !strings.Contains(err.Error(), first.pod.ContainerID) {
				t.Errorf("refusal does not name container %s: %v", first.pod.ContainerID, err)
			}
			if diff := cmp.Diff(before, published(w)); diff != "" {
				t.Errorf("rules for port 8080 after the refusal (-want +got):\n%s", diff)
			}
			first.expect(t)

			// The container dies with containerd and comes back with it:
			// the same container in another namespace.
			first.end()
			if err := first.start(t); err != nil {
				t.Fatal(err)
			}
			first.expect(t)

			first.stop(t)
			w.Client.Silence(t, "tcp", netip.AddrPortFrom(world.V4.Node(), 8080))
			if rules := published(w); len(rules) > 0 {
				t.Errorf("rules for port 8080 with nothing that publishes it: %q", rules)
			}
			if err := second.start(t); err != nil {
				t.Fatal(err)
			}
			second.expect(t)
			second.stop(t)
		})
	}
}

// example reads a conflist of the product's conf/ and sets the backend and the
// state's directory, which the examples leave open. It takes bridge's
// masquerading out: bridge leaves it behind when a DEL names no namespace, and
// then fails at the next DEL over its own left-overs.
func example(t *testing.T, w *world.World, name string) []byte {
	t.Helper()
	content, err := os.ReadFile("../../conf/" + name)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(
		`"ipMasq": true,`, ``,
		`"type": "hostport",`, fmt.Sprintf(`"type": "hostport", "backend": %q, "dataDir": %q,`, w.Backend.Config(), w.DataDir),
	).Replace(string(content))
	if !strings.Contains(text, w.DataDir) {
		t.Fatalf("%s has no plugin of type hostport", name)
	}
	return []byte(text)
}

// nerdctlContainer is a container that publishes 8080:80.
type nerdctlContainer struct {
	w          *world.World
	network    *world.Network
	pod        *world.Pod
	process    *exec.Cmd
	attachment *world.Attachment
}

func newNerdctlContainer(w *world.World, name string, network *world.Network) *nerdctlContainer {
	p := w.NewPod(name)
	p.Close() // nerdctl's containers make their namespaces themselves
	p.ContainerID = "default-" + p.ContainerID
	p.CNIArgs = [][2]string{{"IgnoreUnknown", "1"}, {"NERDCTL_CNI_DHCP_HOSTNAME", name}}
	return &nerdctlContainer{w: w, network: network, pod: p}
}

// start is a new process and the hook's createRuntime.
func (c *nerdctlContainer) start(t *testing.T) error {
	t.Helper()
	c.process = exec.Command(program("peer"), "-name", c.pod.Name, "-tcp", "80", "-udp", "80")
	c.process.Stderr = os.Stderr
	c.process.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := c.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.end)
	c.pod.Netns = c.w.NetnsAt(c.pod.Name, fmt.Sprintf("/proc/%d/ns/net", c.process.Process.Pid))
	if c.attachment != nil {
		c.forget(t)
	}
	var err error
	c.attachment, err = c.network.Add(c.pod, world.TCP(8080, 80).On(world.V4.Any()), world.UDP(8080, 80).On(world.V4.Any()))
	return err
}

// end kills the process; its namespace goes with it. One that has ended may be
// ended again.
func (c *nerdctlContainer) end() {
	_ = c.process.Process.Kill()
	_ = c.process.Wait()
}

// stop is `nerdctl stop`, which cleans up while the namespace is there, and
// the hook's postStop when it is not.
func (c *nerdctlContainer) stop(t *testing.T) {
	t.Helper()
	c.attachment.MustDel(t)
	c.end()
	c.forget(t)
}

// forget is a DEL that knows no namespace.
func (c *nerdctlContainer) forget(t *testing.T) {
	t.Helper()
	if err := c.attachment.DelWithout(); err != nil {
		t.Fatal(err)
	}
}

func (c *nerdctlContainer) expect(t *testing.T) {
	t.Helper()
	for _, protocol := range []string{"tcp", "udp"} {
		got := c.w.Client.Ask(t, protocol, netip.AddrPortFrom(world.V4.Node(), 8080))
		if got.Server != c.pod.Name || got.Client.Addr() != world.V4.Client() {
			t.Errorf("%s: answer of %s, which saw %s", protocol, got.Server, got.Client)
		}
	}
	if got := c.w.Node.Ask(t, "tcp", netip.AddrPortFrom(world.V4.Loopback(), 8080)); got.Server != c.pod.Name {
		t.Errorf("127.0.0.1: answer of %s", got.Server)
	}
}

// published are the lines of the ruleset that are about port 8080. Those of
// the firewall plugin change beside them.
func published(w *world.World) []string {
	var lines []string
	for line := range strings.Lines(w.Rules(world.V4)) {
		if strings.Contains(line, "8080") {
			lines = append(lines, line)
		}
	}
	return lines
}
