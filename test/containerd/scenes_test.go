package containerd

import (
	"fmt"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// network is the chain that containerd is given: the reference plugins' bridge
// with the plugin behind it.
func network(backend, bridge, subnet string) string {
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0", "name": "%[1]s",
  "plugins": [
    {"type": "bridge", "bridge": "%[2]s", "isGateway": true, "ipMasq": true, "ipMasqBackend": "%[1]s", "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "%[3]s"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "%[4]s", "backend": "%[1]s", "capabilities": {"portMappings": true}}
  ]
}`, backend, bridge, subnet, pluginType)
}

func TestIptables(t *testing.T) {
	scenes{backend: "iptables", bridge: "hp-iptables", subnet: "10.81.0.0/24"}.run(t)
}

func TestNftables(t *testing.T) {
	scenes{backend: "nftables", bridge: "hp-nftables", subnet: "10.82.0.0/24"}.run(t)
}

// scenes are what a node lives through with one backend.
type scenes struct {
	backend, bridge, subnet string
	*daemon
}

func (s scenes) run(t *testing.T) {
	needNode(t)
	s.daemon = startDaemon(t, "containerd-"+s.backend, network(s.backend, s.bridge, s.subnet))

	// The first pod has iptables make its empty tables and bridge its base,
	// which stay. Nothing of the plugin's may, and from then on nothing at all.
	first := s.runPod(t, pod{name: "first", ports: []*cri.PortMapping{tcp(80, 80)}, tcp: "80"})
	s.remove(t, first)
	before := ruleset(t)
	for _, trace := range []string{first.ip, first.id, "CNI-HP", "inet hostport"} {
		if strings.Contains(before, trace) {
			t.Fatalf("%q is still in the ruleset after the first pod:\n%s", trace, before)
		}
	}

	for _, scene := range []struct {
		name string
		play func(*testing.T)
	}{
		{"host port 81", s.hostPort},
		{"host network", s.hostNetwork},
		{"both at once", s.bothAtOnce},
		{"tcp and udp", s.tcpAndUDP},
		{"two host IPs", s.twoHostIPs},
		{"taken port", s.takenPort},
		{"stopped twice", s.stoppedTwice},
		{"thirty at once", s.thirtyAtOnce},
		{"containerd killed", s.containerdKilled},
	} {
		t.Run(scene.name, scene.play)
		// A subtest's pods are gone when Run returns.
		expectRuleset(t, before)
	}
}
