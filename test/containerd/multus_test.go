package containerd

import (
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

// TestMultus attaches one sandbox to two networks, as Multus does: it calls
// libcni for each of its delegates with the container's ID and an interface
// name of its own. eth0 has the pod's host ports, net1 those of the pod's
// network annotation.
func TestMultus(t *testing.T) {
	needNode(t)
	for _, backend := range []string{"iptables", "nftables"} {
		t.Run(backend, func(t *testing.T) {
			pod := newMultusPod(t, backend)
			pod.attachBoth(t)
			pod.detachEach(t)
			pod.askForTakenPort(t)
			expectNoAddress(t, pod.address[0])
			expectNoAddress(t, pod.address[1])
		})
	}
}

// multusPod is one sandbox with two attachments: [0] is eth0, [1] net1.
type multusPod struct {
	netns      string
	networks   [2]chain
	attachment [2]*libcni.RuntimeConf
	address    [2]string
}

const (
	eth0Port = 8081
	net1Port = 8082
)

func newMultusPod(t *testing.T, backend string) *multusPod {
	t.Helper()
	p := &multusPod{netns: newNamespace(t, "multus")}
	p.networks = [2]chain{
		newChain(t, network(backend, "hp-eth0", "10.245.0.0/24")),
		newChain(t, example(t, "net1-multus.conflist", backend)),
	}
	for i, port := range []int{eth0Port, net1Port} {
		p.attachment[i] = &libcni.RuntimeConf{
			ContainerID: containerID(0x20),
			NetNS:       p.netns,
			IfName:      []string{"eth0", "net1"}[i],
			Args:        podArgs("true", "two-networks", containerID(0x20)),
			CapabilityArgs: capabilities{
				"portMappings": []lowerMapping{{HostPort: port, ContainerPort: 80, Protocol: "tcp"}},
			},
		}
	}
	serveIn(t, p.netns, "default/two-networks", "80", "")
	return p
}

func (p *multusPod) attachBoth(t *testing.T) {
	t.Helper()
	p.address[0] = addressOf(t, p.networks[0].add(t, p.attachment[0]))
	p.address[1] = addressOf(t, p.networks[1].add(t, p.attachment[1]))
	p.expect(t, true, true)
}

// detachEach takes one attachment away and gives it back, then the other: what
// remains is untouched, byte for byte.
func (p *multusPod) detachEach(t *testing.T) {
	t.Helper()
	p.networks[1].del(t, p.attachment[1])
	p.expect(t, true, false)
	expectNoAddress(t, p.address[1])

	p.address[1] = addressOf(t, p.networks[1].add(t, p.attachment[1]))
	p.expect(t, true, true)
	p.networks[0].del(t, p.attachment[0])
	p.expect(t, false, true)
	expectNoAddress(t, p.address[0])
	alone := ruleset(t)

	p.address[0] = addressOf(t, p.networks[0].add(t, p.attachment[0]))
	p.expect(t, true, true)
	p.networks[0].del(t, p.attachment[0])
	expectRuleset(t, alone)
}

// askForTakenPort has net1 ask for the host port that eth0 has. The pod's own
// ports come to net1's chain that way when its annotation names none, because
// Multus hands the pod's runtime configuration to every delegate.
func (p *multusPod) askForTakenPort(t *testing.T) {
	t.Helper()
	p.networks[1].del(t, p.attachment[1])
	p.address[0] = addressOf(t, p.networks[0].add(t, p.attachment[0]))
	same := *p.attachment[1]
	same.CapabilityArgs = p.attachment[0].CapabilityArgs
	if _, err := p.networks[1].tryAdd(t, &same); err == nil {
		t.Errorf("net1 took port %d of eth0", eth0Port)
	} else if !strings.Contains(err.Error(), "default/two-networks") {
		t.Errorf("refusal does not name the owner: %v", err)
	}
	p.networks[1].del(t, &same)
	p.expect(t, true, false)
	p.networks[0].del(t, p.attachment[0])
}

func (p *multusPod) expect(t *testing.T, eth0, net1 bool) {
	t.Helper()
	for i, wanted := range []bool{eth0, net1} {
		port := []int{eth0Port, net1Port}[i]
		if !wanted {
			ask(outside, "tcp", nodeIP, port).expectSilence(t)
			continue
		}
		p.networks[i].checkPlugin(t, p.attachment[i])
		// The client's address is kept on net1 too: its conflist has the
		// pod answer through the interface that was asked.
		ask(outside, "tcp", nodeIP, port).expect(t, answer{Pod: "default/two-networks", Client: clientIP})
		ask(onNode, "tcp", nodeIP, port).expect(t, answer{Pod: "default/two-networks"})
	}
}

func expectNoAddress(t *testing.T, address string) {
	t.Helper()
	if rules := ruleset(t); strings.Contains(rules, address) {
		t.Errorf("ruleset still has %s:\n%s", address, rules)
	}
}
