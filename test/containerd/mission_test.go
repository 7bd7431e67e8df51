package containerd

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The three pods that the plugin was written for: one with hostPort 81, one
// with hostNetwork and hostPort 9697, and both on one node.
var (
	web  = pod{name: "web", ports: []*cri.PortMapping{tcp(81, 80)}, tcp: "80"}
	host = pod{name: "host", ports: []*cri.PortMapping{tcp(9697, 9697)}, tcp: "9697", hostNetwork: true}
)

func (s scenes) hostPort(t *testing.T) {
	running := s.runPod(t, web)
	s.expectWeb(t, running)
}

func (s scenes) hostNetwork(t *testing.T) {
	before := ruleset(t)
	s.runPod(t, host)
	s.expectHost(t)
	expectRuleset(t, before)
}

func (s scenes) bothAtOnce(t *testing.T) {
	webPod := s.runPod(t, web)
	s.runPod(t, host)
	s.expectWeb(t, webPod)
	s.expectHost(t)

	// One goes, the other does not notice.
	s.remove(t, webPod)
	ask(outside, "tcp", nodeIP, 81).expectSilence(t)
	s.expectHost(t)
}

func (s scenes) expectWeb(t *testing.T, running *sandbox) {
	t.Helper()
	// A client keeps its address, except where the answer would not come
	// back through the node: the pod that talks to itself.
	ask(onNode, "tcp", running.ip, 80).expect(t, web.answer(""))
	ask(outside, "tcp", nodeIP, 81).expect(t, web.answer(clientIP))
	ask(onNode, "tcp", nodeIP, 81).expect(t, web.answer(""))
	ask(onNode, "tcp", "127.0.0.1", 81).expect(t, web.answer(""))
	ask(running.netns, "tcp", nodeIP, 81).expect(t, web.answer(""))
	expectNoListener(t, 81)
	s.expectMapping(t, "tcp", 81, running.ip, 80)
}

func (s scenes) expectHost(t *testing.T) {
	t.Helper()
	// The process itself listens on the node, and nothing comes between.
	ask(outside, "tcp", nodeIP, 9697).expect(t, host.answer(clientIP))
	ask(onNode, "tcp", "127.0.0.1", 9697).expect(t, host.answer("127.0.0.1"))
	if rules := ruleset(t); strings.Contains(rules, "9697") {
		t.Errorf("a rule mentions port 9697 of a pod with hostNetwork:\n%s", rules)
	}
}

// expectMapping looks for the one DNAT line or map element of a mapping, as an
// operator would.
func (s scenes) expectMapping(t *testing.T, protocol string, hostPort int, ip string, containerPort int) {
	t.Helper()
	list := "iptables -t nat -L -nv"
	line := fmt.Sprintf(`DNAT .* dpt:%d\b.* to:%s:%d\s*$`, hostPort, regexp.QuoteMeta(ip), containerPort)
	if s.backend == "nftables" {
		list = "nft --numeric list table inet hostport"
		line = fmt.Sprintf(`\b%s \. %d\b.* : %s \. %d\b`, protocolNumber(protocol), hostPort, regexp.QuoteMeta(ip), containerPort)
	}
	rules := mustRun(t, strings.Fields(list)...)
	found := regexp.MustCompile("(?m)"+line).FindAllString(rules, -1)
	if len(found) != 1 {
		t.Errorf("%s: got %d lines like %q, want one:\n%s", list, len(found), line, rules)
	}
}

// protocolNumber is how nft prints a protocol when asked for numbers.
func protocolNumber(protocol string) string {
	return map[string]string{"tcp": "6", "udp": "17"}[protocol]
}
