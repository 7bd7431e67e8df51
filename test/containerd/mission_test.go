package containerd

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hostport-cni/hostport/test/world"
)

// The three pods that the plugin was written for: one with hostPort 81, one
// with hostNetwork and hostPort 9697, and both on one node.
var (
	web  = pod{name: "web", ports: []*cri.PortMapping{tcp(81, 80)}, tcp: "80"}
	host = pod{name: "host", ports: []*cri.PortMapping{tcp(9697, 9697)}, tcp: "9697", hostNetwork: true}
)

func (s scenes) hostPort(t *testing.T) {
	s.expectWeb(t, s.runPod(t, web))
}

func (s scenes) hostNetwork(t *testing.T) {
	before := s.w.Ruleset()
	s.runPod(t, host)
	s.expectHost(t)
	s.expectRuleset(t, before)
}

func (s scenes) bothAtOnce(t *testing.T) {
	webPod := s.runPod(t, web)
	s.runPod(t, host)
	s.expectWeb(t, webPod)
	s.expectHost(t)

	// One goes, the other does not notice.
	s.remove(t, webPod)
	s.silent(t, 81)
	s.expectHost(t)
}

func (s scenes) expectWeb(t *testing.T, running *sandbox) {
	t.Helper()
	s.reaches(t, "tcp", 81, "web")
	local := netip.AddrPortFrom(world.V4.Loopback(), 81)
	if got := s.w.Node.Ask(t, "tcp", local); got.Server != "web" {
		t.Errorf("%s on the node: answer of %s", local, got.Server)
	}
	for _, f := range world.Families {
		// The pod that talks to itself.
		if got := running.Ask(t, "tcp", netip.AddrPortFrom(f.Node(), 81)); got.Server != "web" {
			t.Errorf("%s, asked by the pod itself: answer of %s", f.Node(), got.Server)
		}
	}
	if sockets := s.w.Node.Command("ss", "-Hltn", "sport = :81"); sockets != "" {
		t.Errorf("somebody listens on the node:\n%s", sockets)
	}
	for _, ip := range running.ips {
		s.expectMapping(t, "tcp", 81, ip, 80)
	}
}

func (s scenes) expectHost(t *testing.T) {
	t.Helper()
	// The process itself listens on the node, and nothing comes between.
	s.reaches(t, "tcp", 9697, "host")
	if rules := fmt.Sprintf("%+v", s.w.Ruleset()); strings.Contains(rules, "9697") {
		t.Errorf("a rule mentions port 9697 of a pod with hostNetwork:\n%s", rules)
	}
}

// expectMapping looks for the one DNAT rule or map element of a mapping, as an
// operator would.
func (s scenes) expectMapping(t *testing.T, protocol string, hostPort int, ip netip.Addr, containerPort uint16) {
	t.Helper()
	f := world.V4
	if ip.Is6() {
		f = world.V6
	}
	rules := s.w.Rules(f)
	line := fmt.Sprintf(`--dport %d\b.* -j DNAT --to-destination %s$`, hostPort, regexp.QuoteMeta(netip.AddrPortFrom(ip, containerPort).String()))
	if s.w.Backend == world.NFTables {
		rules = s.w.Node.Command("nft", "--numeric", "list", "table", "inet", "hostport")
		line = fmt.Sprintf(`\b%s \. %d\b.* : %s \. %d\b`, map[string]string{"tcp": "6", "udp": "17"}[protocol], hostPort, regexp.QuoteMeta(ip.String()), containerPort)
	}
	if found := regexp.MustCompile("(?m)"+line).FindAllString(rules, -1); len(found) != 1 {
		t.Errorf("%d lines like %q, want one:\n%s", len(found), line, rules)
	}
}
