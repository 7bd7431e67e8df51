package containerd

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
)

// TestNerdctl calls the chain as nerdctl's OCI hook does: the container's
// process is there already and its namespace is named by it, every ADD is
// preceded by a DEL in case the container was restarted, there is no pod, and
// the last DEL comes when process and namespace are gone.
func TestNerdctl(t *testing.T) {
	needNode(t)
	for _, backend := range []string{"iptables", "nftables"} {
		t.Run(backend, func(t *testing.T) {
			bridge := newChain(t, example(t, "20-nerdctl-bridge.conflist", backend))
			first := newNerdctlContainer("first", bridge, 0x31)
			second := newNerdctlContainer("second", bridge, 0x32)
			if err := first.start(t); err != nil {
				t.Fatal(err)
			}
			first.expect(t)

			// The port has an owner, and the message says which container.
			// nerdctl makes no DEL after an ADD that failed.
			before := published(t)
			err := second.start(t)
			if err == nil {
				t.Fatal("a second container took port 8080")
			}
			if !strings.Contains(err.Error(), first.attachment.ContainerID) {
				t.Errorf("refusal does not name container %s: %v", first.attachment.ContainerID, err)
			}
			if diff := cmp.Diff(before, published(t)); diff != "" {
				t.Errorf("rules for port 8080 after the refusal (-want +got):\n%s", diff)
			}
			first.expect(t)

			// The container dies with containerd and comes back with it:
			// the same container in another namespace.
			end(first.process)
			if err := first.start(t); err != nil {
				t.Fatal(err)
			}
			first.expect(t)

			first.stop(t)
			ask(outside, "tcp", nodeIP, 8080).expectSilence(t)
			if rules := published(t); len(rules) > 0 {
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

// nerdctlContainer is a container that publishes 8080:80.
type nerdctlContainer struct {
	name       string
	network    chain
	process    *exec.Cmd
	attachment libcni.RuntimeConf
}

func newNerdctlContainer(name string, network chain, seed byte) *nerdctlContainer {
	return &nerdctlContainer{
		name:    name,
		network: network,
		attachment: libcni.RuntimeConf{
			ContainerID: "default-" + containerID(seed),
			IfName:      "eth0",
			Args:        [][2]string{{"IgnoreUnknown", "1"}, {"NERDCTL_CNI_DHCP_HOSTNAME", name}},
			CapabilityArgs: capabilities{"portMappings": []portMapping{
				{HostPort: 8080, ContainerPort: 80, Protocol: "tcp", HostIP: "0.0.0.0"},
				{HostPort: 8080, ContainerPort: 80, Protocol: "udp", HostIP: "0.0.0.0"},
			}},
		},
	}
}

// start is a new process and the hook's createRuntime.
func (c *nerdctlContainer) start(t *testing.T) error {
	t.Helper()
	c.process = serveIn(t, "", c.name, "80", "80")
	c.del(t, "")
	attachment := c.attachment
	attachment.NetNS = fmt.Sprintf("/proc/%d/ns/net", c.process.Process.Pid)
	_, err := c.network.tryAdd(t, &attachment)
	return err
}

// stop is `nerdctl stop`, which cleans up while the namespace is there, and
// the hook's postStop when it is not.
func (c *nerdctlContainer) stop(t *testing.T) {
	t.Helper()
	c.del(t, fmt.Sprintf("/proc/%d/ns/net", c.process.Process.Pid))
	end(c.process)
	c.del(t, "")
}

func (c *nerdctlContainer) del(t *testing.T, netns string) {
	t.Helper()
	attachment := c.attachment
	attachment.NetNS = netns
	c.network.del(t, &attachment)
}

func (c *nerdctlContainer) expect(t *testing.T) {
	t.Helper()
	for _, protocol := range []string{"tcp", "udp"} {
		ask(outside, protocol, nodeIP, 8080).expect(t, answer{Pod: c.name, Client: clientIP})
	}
	ask(onNode, "tcp", "127.0.0.1", 8080).expect(t, answer{Pod: c.name})
}

// published are the lines of the ruleset that are about port 8080. Those of
// the firewall plugin change beside them.
func published(t *testing.T) []string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(ruleset(t)) {
		if strings.Contains(line, "8080") {
			lines = append(lines, line)
		}
	}
	return lines
}
