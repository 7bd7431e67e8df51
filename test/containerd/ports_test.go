package containerd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (s scenes) tcpAndUDP(t *testing.T) {
	dns := pod{name: "dns", ports: []*cri.PortMapping{tcp(5353, 53), udp(5353, 53)}, tcp: "53", udp: "53"}
	running := s.runPod(t, dns)
	for _, protocol := range []string{"tcp", "udp"} {
		ask(outside, protocol, nodeIP, 5353).expect(t, dns.answer(clientIP))
		ask(onNode, protocol, nodeIP, 5353).expect(t, dns.answer(""))
	}
	if s.backend == "nftables" {
		s.expectMapping(t, "tcp", 5353, running.ip, 53)
		s.expectMapping(t, "udp", 5353, running.ip, 53)
	}
}

func (s scenes) twoHostIPs(t *testing.T) {
	one := pod{name: "one", ports: []*cri.PortMapping{onIP(nodeIP, tcp(8080, 80))}, tcp: "80"}
	two := pod{name: "two", ports: []*cri.PortMapping{onIP(secondIP, tcp(8080, 80))}, tcp: "80"}
	s.runPod(t, one)
	s.runPod(t, two)
	for _, from := range []string{outside, onNode} {
		ask(from, "tcp", nodeIP, 8080).expect(t, one.answer(""))
		ask(from, "tcp", secondIP, 8080).expect(t, two.answer(""))
	}

	// A third that wants either address, or all of them, comes too late.
	for _, test := range []struct {
		hostIP string
		owners []string // any of them may be named
	}{
		{nodeIP, []string{"default/one"}},
		{secondIP, []string{"default/two"}},
		{"", []string{"default/one", "default/two"}},
		{"0.0.0.0", []string{"default/one", "default/two"}},
	} {
		third := pod{name: "third", ports: []*cri.PortMapping{onIP(test.hostIP, tcp(8080, 80))}, tcp: "80"}
		s.expectRefusal(t, third, 8080, test.owners...)
	}
	ask(outside, "tcp", nodeIP, 8080).expect(t, one.answer(clientIP))
	ask(outside, "tcp", secondIP, 8080).expect(t, two.answer(clientIP))
}

func (s scenes) takenPort(t *testing.T) {
	owner := pod{name: "owner", ports: []*cri.PortMapping{tcp(7000, 80)}, tcp: "80"}
	late := pod{name: "late", ports: []*cri.PortMapping{tcp(7001, 80), tcp(7000, 80)}, tcp: "80"}
	running := s.runPod(t, owner)
	before := ruleset(t)
	s.expectRefusal(t, late, 7000, "default/owner")

	// Nothing of the refused pod remains, its port that was free included.
	expectRuleset(t, before)
	ask(outside, "tcp", nodeIP, 7000).expect(t, owner.answer(clientIP))

	// The owner gone, the port is there for the next.
	s.remove(t, running)
	s.runPod(t, late)
	ask(outside, "tcp", nodeIP, 7000).expect(t, late.answer(clientIP))
	ask(outside, "tcp", nodeIP, 7001).expect(t, late.answer(clientIP))
}

// expectRefusal runs a pod that must not come up, and reads the CRI's message:
// it is what a kubelet shows in the pod's events.
func (s scenes) expectRefusal(t *testing.T, p pod, port int, owners ...string) {
	t.Helper()
	running, err := s.tryPod(t.Context(), p)
	if err == nil {
		s.remove(t, running)
		t.Errorf("pod %s with the taken port %d runs", p.name, port)
		return
	}
	message := err.Error()
	for _, owner := range owners {
		if strings.Contains(message, owner) && strings.Contains(message, fmt.Sprint(port)) {
			return
		}
	}
	t.Errorf("refusal of pod %s names neither of %q with port %d: %s", p.name, owners, port, message)
}

func (s scenes) stoppedTwice(t *testing.T) {
	before := ruleset(t)
	p := pod{name: "twice", ports: []*cri.PortMapping{tcp(7100, 80), udp(7100, 80)}, tcp: "80", udp: "80"}
	running := s.runPod(t, p)
	ask(outside, "udp", nodeIP, 7100).expect(t, p.answer(clientIP))
	for range 2 {
		if err := s.stopPod(t.Context(), running); err != nil {
			t.Fatal(err)
		}
		expectRuleset(t, before)
	}
	ask(outside, "tcp", nodeIP, 7100).expectSilence(t)

	// The second call must not have hit a pod that has the port by now.
	next := p
	next.name = "next"
	s.runPod(t, next)
	if err := s.stopPod(t.Context(), running); err != nil {
		t.Fatal(err)
	}
	ask(outside, "tcp", nodeIP, 7100).expect(t, next.answer(clientIP))
}

func (s scenes) thirtyAtOnce(t *testing.T) {
	const count, base = 30, 20000
	before := ruleset(t)
	pods := make([]*sandbox, count)
	failures := make([]error, count)
	each := func(do func(i int) error) error {
		var all sync.WaitGroup
		for i := range count {
			all.Go(func() { failures[i] = do(i) })
		}
		all.Wait()
		return errors.Join(failures...)
	}

	err := each(func(i int) (err error) {
		p := pod{name: fmt.Sprintf("many-%d", i), ports: []*cri.PortMapping{tcp(int32(base+i), 80)}, tcp: "80"}
		pods[i], err = s.tryPod(t.Context(), p)
		return err
	})
	t.Cleanup(func() {
		for _, running := range pods {
			if running != nil {
				s.remove(t, running)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, running := range pods {
		ask(outside, "tcp", nodeIP, base+i).expect(t, running.answer(clientIP))
	}

	// They go at once as well.
	if err := each(func(i int) error { return s.stopPod(context.Background(), pods[i]) }); err != nil {
		t.Fatal(err)
	}
	expectRuleset(t, before)
}

// containerdKilled is a crash of the runtime: what runs goes on, the restarted
// containerd finds it, and its stop leaves nothing behind.
func (s scenes) containerdKilled(t *testing.T) {
	before := ruleset(t)
	old := pod{name: "old", ports: []*cri.PortMapping{tcp(7200, 80), udp(7200, 80)}, tcp: "80", udp: "80"}
	oldPod, webPod := s.runPod(t, old), s.runPod(t, web)
	running := ruleset(t)

	s.kill(t)
	expectRuleset(t, running)
	ask(outside, "tcp", nodeIP, 7200).expect(t, old.answer(clientIP))
	ask(outside, "udp", nodeIP, 7200).expect(t, old.answer(clientIP))

	s.start(t)
	s.waitReady(t)
	names := map[string]bool{}
	for _, name := range s.listed(t) {
		names[name] = true
	}
	if diff := cmp.Diff(map[string]bool{"old": true, "web": true}, names); diff != "" {
		t.Errorf("sandboxes after the restart (-want +got):\n%s", diff)
	}
	s.expectWeb(t, webPod)

	// The port stays its owner's, and new pods come up.
	late := pod{name: "late", ports: []*cri.PortMapping{tcp(7200, 80)}, tcp: "80"}
	s.expectRefusal(t, late, 7200, "default/old")
	fresh := pod{name: "fresh", ports: []*cri.PortMapping{tcp(7201, 80)}, tcp: "80"}
	freshPod := s.runPod(t, fresh)
	ask(outside, "tcp", nodeIP, 7201).expect(t, fresh.answer(clientIP))

	for _, pod := range []*sandbox{oldPod, webPod, freshPod} {
		s.remove(t, pod)
	}
	expectRuleset(t, before)
}
