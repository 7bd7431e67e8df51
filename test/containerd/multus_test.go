package containerd

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

// TestMultus attaches one sandbox to two networks, as Multus does: it calls
// libcni for each of its delegates with the container's ID and an interface
// name of its own. eth0 has the pod's host ports, net1 those of the pod's
// network annotation.
func TestMultus(t *testing.T) {
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			pod := newMultusPod(t, world.New(t, world.Options{Backend: backend}))
			pod.attachBoth(t)
			pod.detachEach(t)
			pod.askForTakenPort(t)
			pod.expectNoAddress(t, 0)
			pod.expectNoAddress(t, 1)
		})
	}
}

// multusPod is one sandbox with two attachments: [0] is eth0, [1] net1.
type multusPod struct {
	w          *world.World
	pod        *world.Pod
	networks   [2]*world.Network
	attachment [2]*world.Attachment
}

var (
	multusNames = [2]string{"eth0", "net1"}
	multusPorts = [2]uint16{8081, 8082}
)

func newMultusPod(t *testing.T, w *world.World) *multusPod {
	t.Helper()
	p := &multusPod{w: w, pod: w.NewPod("two-networks")}
	p.networks = [2]*world.Network{
		w.NewNetwork(world.NetworkOptions{Families: []world.Family{world.V4}}),
		w.NetworkFromConflist(example(t, w, "net1-multus.conflist")),
	}
	p.pod.Serve("tcp", 80)
	return p
}

// add attaches with the names of fields that Multus sends.
func (p *multusPod) add(i int, port uint16) error {
	var err error
	p.attachment[i], err = p.networks[i].AddWith(p.pod, multusNames[i], map[string]any{
		"portMappings": []map[string]any{{"hostPort": port, "containerPort": 80, "protocol": "tcp"}},
	})
	return err
}

func (p *multusPod) mustAdd(t *testing.T, i int) {
	t.Helper()
	if err := p.add(i, multusPorts[i]); err != nil {
		t.Fatal(err)
	}
}

func (p *multusPod) attachBoth(t *testing.T) {
	t.Helper()
	p.mustAdd(t, 0)
	p.mustAdd(t, 1)
	p.expect(t, true, true)
}

// detachEach takes one attachment away and gives it back, then the other: what
// remains is untouched, byte for byte.
func (p *multusPod) detachEach(t *testing.T) {
	t.Helper()
	p.attachment[1].MustDel(t)
	p.expect(t, true, false)
	p.expectNoAddress(t, 1)

	p.mustAdd(t, 1)
	p.expect(t, true, true)
	p.attachment[0].MustDel(t)
	p.expect(t, false, true)
	p.expectNoAddress(t, 0)
	alone := p.w.Ruleset()

	p.mustAdd(t, 0)
	p.expect(t, true, true)
	p.attachment[0].MustDel(t)
	if rules := p.w.Ruleset(); rules != alone {
		t.Errorf("rules of eth0 are left:\n%+v\nwant\n%+v", rules, alone)
	}
}

// askForTakenPort has net1 ask for the host port that eth0 has. The pod's own
// ports come to net1's chain that way when its annotation names none, because
// Multus hands the pod's runtime configuration to every delegate.
func (p *multusPod) askForTakenPort(t *testing.T) {
	t.Helper()
	p.attachment[1].MustDel(t)
	p.mustAdd(t, 0)
	if err := p.add(1, multusPorts[0]); err == nil {
		t.Errorf("net1 took port %d of eth0", multusPorts[0])
	} else if !strings.Contains(err.Error(), "default/two-networks") {
		t.Errorf("refusal does not name the owner: %v", err)
	}
	p.attachment[1].MustDel(t)
	p.expect(t, true, false)
	p.attachment[0].MustDel(t)
}

func (p *multusPod) expect(t *testing.T, wanted ...bool) {
	t.Helper()
	for i, port := range multusPorts {
		to := netip.AddrPortFrom(world.V4.Node(), port)
		if !wanted[i] {
			p.w.Client.Silence(t, "tcp", to)
			continue
		}
		// bridge's own CHECK wants a route by its gateway in the main table,
		// which a second network does not have.
		if refused, err := p.attachment[i].CheckHostport(); refused != nil || err != nil {
			t.Errorf("CHECK of %s: %v %v", multusNames[i], refused, err)
		}
		// The client's address is kept on net1 too: its conflist has the
		// pod answer through the interface that was asked.
		got := p.w.Client.Ask(t, "tcp", to)
		if got.Server != "two-networks" || got.Client.Addr() != world.V4.Client() {
			t.Errorf("%s: answer of %s, which saw %s", to, got.Server, got.Client)
		}
		if got := p.w.Node.Ask(t, "tcp", to); got.Server != "two-networks" {
			t.Errorf("%s on the node: answer of %s", to, got.Server)
		}
	}
}

func (p *multusPod) expectNoAddress(t *testing.T, i int) {
	t.Helper()
	address := p.attachment[i].Addr(world.V4)
	if rules := fmt.Sprintf("%+v", p.w.Ruleset()); strings.Contains(rules, address.String()) {
		t.Errorf("ruleset still has %s:\n%s", address, rules)
	}
}
