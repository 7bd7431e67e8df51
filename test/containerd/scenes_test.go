package containerd

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hostport-cni/hostport/test/world"
)

// scenes are what a node lives through with one containerd and one backend.
type scenes struct{ *daemon }

// TestContainerd is every scene with every containerd on every backend.
func TestContainerd(t *testing.T) {
	for _, r := range releases {
		for _, b := range backends {
			t.Run(fmt.Sprintf("%s/%s", r.name, b), func(t *testing.T) {
				w := world.New(t, world.Options{Backend: b})
				network := w.NewNetwork(world.NetworkOptions{CNIVersion: r.cniVersion, MainConfig: masquerade(b)})
				scenes{startDaemon(t, r, w, network.Conflist)}.run(t)
			})
		}
	}
}

// masquerade has bridge masquerade what pods send, with rules of its own beside
// the plugin's.
func masquerade(b world.Backend) world.Config {
	return world.Config{"ipMasq": true, "ipMasqBackend": b.Config()}
}

func (s scenes) run(t *testing.T) {
	// The first pod has bridge make its base, which stays. Nothing of the
	// plugin's may, and from then on nothing at all.
	first := s.runPod(t, pod{name: "first", ports: []*cri.PortMapping{tcp(80, 80)}, tcp: "80"})
	s.remove(t, first)
	before := s.w.Ruleset()
	for _, trace := range []string{first.ips[0].String(), first.id, "CNI-HP", "inet hostport"} {
		if text := fmt.Sprintf("%+v", before); strings.Contains(text, trace) {
			t.Fatalf("%q is still in the ruleset after the first pod:\n%s", trace, text)
		}
	}

	for _, scene := range []struct {
		name string
		play func(*testing.T)
		skip bool
	}{
		{name: "host port 81", play: s.hostPort},
		{name: "host network", play: s.hostNetwork},
		{name: "both at once", play: s.bothAtOnce},
		{name: "tcp and udp", play: s.tcpAndUDP},
		{name: "two host IPs", play: s.twoHostIPs},
		{name: "taken port", play: s.takenPort},
		{name: "same pod again", play: s.samePodAgain},
		{name: "stopped twice", play: s.stoppedTwice},
		{name: "thirty at once", play: s.thirtyAtOnce},
		{name: "containerd killed", play: s.containerdKilled},
		{name: "status", play: s.status, skip: s.w.Backend == world.NFTables}, // needs no program that could be missing
	} {
		if scene.skip {
			continue
		}
		t.Run(scene.name, scene.play)
		// A subtest's pods are gone when Run returns.
		s.expectRuleset(t, before)
	}
	// Of a sandbox that vanished bridge's own rules stay, so this comes last.
	t.Run("dead owner", s.deadOwner)
	if text := fmt.Sprintf("%+v", s.w.Ruleset()); strings.Contains(text, "CNI-HP") || strings.Contains(text, "inet hostport") {
		t.Errorf("rules are left of a sandbox that vanished:\n%s", text)
	}
}

// expectRuleset fails if the ruleset differs from want by a byte.
func (d *daemon) expectRuleset(t *testing.T, want world.Ruleset) {
	t.Helper()
	if diff := cmp.Diff(want, d.w.Ruleset()); diff != "" {
		t.Errorf("ruleset differs (-want +got):\n%s", diff)
	}
}

// reaches asks a host port in both families, from outside and on the node, and
// wants the pod's answer. Outside the pod sees the client's own address.
func (d *daemon) reaches(t *testing.T, protocol string, port uint16, name string) {
	t.Helper()
	for _, f := range world.Families {
		d.reachesAt(t, protocol, netip.AddrPortFrom(f.Node(), port), name)
	}
}

func (d *daemon) reachesAt(t *testing.T, protocol string, to netip.AddrPort, name string) {
	t.Helper()
	f := world.V4
	if to.Addr().Is6() {
		f = world.V6
	}
	if got := d.w.Client.Ask(t, protocol, to); got.Server != name || got.Client.Addr() != f.Client() {
		t.Errorf("%s %s from outside: answer of %s, which saw %s; want %s and %s", protocol, to, got.Server, got.Client, name, f.Client())
	}
	if got := d.w.Node.Ask(t, protocol, to); got.Server != name {
		t.Errorf("%s %s on the node: answer of %s, want %s", protocol, to, got.Server, name)
	}
}

// silent fails if anybody answers on a TCP port.
func (d *daemon) silent(t *testing.T, port uint16) {
	t.Helper()
	for _, f := range world.Families {
		d.w.Client.Silence(t, "tcp", netip.AddrPortFrom(f.Node(), port))
	}
}
