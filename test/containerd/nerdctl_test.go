package containerd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
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
			first := nerdctlRun(t, bridge, "first", 0x31)
			if err := first.create(t); err != nil {
				t.Fatal(err)
			}
			first.expect(t)
			base := ruleset(t)

			// The port has an owner, and the message says which container.
			second := nerdctlRun(t, bridge, "second", 0x32)
			err := second.create(t)
			if err == nil {
				t.Fatal("a second container took port 8080")
			}
			if !strings.Contains(err.Error(), first.attachment.ContainerID[:12]) {
				t.Errorf("refusal does not name container %s: %v", first.attachment.ContainerID, err)
			}
			second.remove(t)
			expectRuleset(t, base)
			first.expect(t)

			// containerd was bounced: the same container again.
			if err := first.create(t); err != nil {
				t.Fatal(err)
			}
			first.expect(t)

			first.remove(t)
			ask(outside, "tcp", nodeIP, 8080).expectSilence(t)
			if err := second.create(t); err != nil {
				t.Fatal(err)
			}
			second.expect(t)
			second.remove(t)
		})
	}
}

// nerdctlContainer is a container that publishes 8080:80.
type nerdctlContainer struct {
	name       string
	network    chain
	attachment *libcni.RuntimeConf
}

func nerdctlRun(t *testing.T, network chain, name string, seed byte) *nerdctlContainer {
	t.Helper()
	pid := serveIn(t, "", name, "80", "80")
	return &nerdctlContainer{
		name:    name,
		network: network,
		attachment: &libcni.RuntimeConf{
			ContainerID: "default-" + containerID(seed),
			NetNS:       fmt.Sprintf("/proc/%d/ns/net", pid),
			IfName:      "eth0",
			Args:        [][2]string{{"IgnoreUnknown", "1"}, {"NERDCTL_CNI_DHCP_HOSTNAME", name}},
			CapabilityArgs: capabilities{"portMappings": []portMapping{
				{HostPort: 8080, ContainerPort: 80, Protocol: "tcp", HostIP: "0.0.0.0"},
				{HostPort: 8080, ContainerPort: 80, Protocol: "udp", HostIP: "0.0.0.0"},
			}},
		},
	}
}

// create is the hook's createRuntime.
func (c *nerdctlContainer) create(t *testing.T) error {
	t.Helper()
	c.remove(t)
	_, err := c.network.tryAdd(t, c.attachment)
	return err
}

// remove is the hook's postStop: it knows no namespace.
func (c *nerdctlContainer) remove(t *testing.T) {
	t.Helper()
	stopped := *c.attachment
	stopped.NetNS = ""
	c.network.del(t, &stopped)
}

func (c *nerdctlContainer) expect(t *testing.T) {
	t.Helper()
	for _, protocol := range []string{"tcp", "udp"} {
		ask(outside, protocol, nodeIP, 8080).expect(t, answer{Pod: c.name, Client: clientIP})
	}
	ask(onNode, "tcp", "127.0.0.1", 8080).expect(t, answer{Pod: c.name})
}
