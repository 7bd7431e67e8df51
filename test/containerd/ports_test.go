package containerd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hostport-cni/hostport/test/world"
)

func (s scenes) tcpAndUDP(t *testing.T) {
	dns := pod{name: "dns", ports: []*cri.PortMapping{tcp(5353, 53), udp(5353, 53)}, tcp: "53", udp: "53"}
	s.runPod(t, dns)
	for _, protocol := range []string{"tcp", "udp"} {
		s.reaches(t, protocol, 5353, "dns")
	}
}

func (s scenes) twoHostIPs(t *testing.T) {
	for _, f := range world.Families {
		one, two := f.Node().String(), f.NodeSecond().String()
		onePod := s.runPod(t, pod{name: "one", ports: []*cri.PortMapping{onIP(one, tcp(8080, 80))}, tcp: "80"})
		twoPod := s.runPod(t, pod{name: "two", ports: []*cri.PortMapping{onIP(two, tcp(8080, 80))}, tcp: "80"})

		// A third that wants either address, or all of them, comes too late.
		for _, test := range []struct {
			hostIP string
			owners []string // any of them may be named
		}{
			{one, []string{"default/one"}},
			{two, []string{"default/two"}},
			{"", []string{"default/one", "default/two"}},
			{f.Any().String(), []string{"default/one", "default/two"}},
		} {
			third := pod{name: "third", ports: []*cri.PortMapping{onIP(test.hostIP, tcp(8080, 80))}, tcp: "80"}
			s.expectRefusal(t, third, 8080, test.owners...)
		}
		s.reachesAt(t, "tcp", netip.AddrPortFrom(f.Node(), 8080), "one")
		s.reachesAt(t, "tcp", netip.AddrPortFrom(f.NodeSecond(), 8080), "two")
		s.remove(t, onePod)
		s.remove(t, twoPod)
	}
}

func (s scenes) takenPort(t *testing.T) {
	owner := pod{name: "owner", ports: []*cri.PortMapping{tcp(7000, 80)}, tcp: "80"}
	late := pod{name: "late", ports: []*cri.PortMapping{tcp(7001, 80), tcp(7000, 80)}, tcp: "80"}
	running := s.runPod(t, owner)
	before := s.w.Ruleset()
	s.expectRefusal(t, late, 7000, "default/owner")

	// Nothing of the refused pod remains, its port that was free included.
	s.expectRuleset(t, before)
	s.reaches(t, "tcp", 7000, "owner")

	// The owner gone, the port is there for the next.
	s.remove(t, running)
	s.runPod(t, late)
	s.reaches(t, "tcp", 7000, "late")
	s.reaches(t, "tcp", 7001, "late")
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
	if !strings.Contains(message, fmt.Sprint(port)) || !slices.ContainsFunc(owners, func(o string) bool { return strings.Contains(message, o) }) {
		t.Errorf("refusal of pod %s names neither of %q with port %d: %s", p.name, owners, port, message)
	}
}

// samePodAgain is what the kubelet does when a pod's sandbox has changed: it
// makes the next one, and may stop the earlier one late. The port goes with
// the pod.
func (s scenes) samePodAgain(t *testing.T) {
	p := pod{name: "again", ports: []*cri.PortMapping{tcp(7300, 80)}, tcp: "80"}
	earlier := s.runPod(t, p)
	p.attempt++
	s.runPod(t, p)
	s.reaches(t, "tcp", 7300, "again")
	s.remove(t, earlier)
	s.reaches(t, "tcp", 7300, "again")
}

// deadOwner is a sandbox that vanished while containerd was away, for which no
// DEL came yet: another pod takes its port over, and the late DEL harms nobody.
func (s scenes) deadOwner(t *testing.T) {
	ports := []*cri.PortMapping{tcp(7400, 80), udp(7400, 80)}
	dead := s.runPod(t, pod{name: "dead", ports: ports, tcp: "80", udp: "80"})
	s.kill(t)
	for process := range strings.FieldsSeq(s.w.Node.Command("ip", "netns", "pids", filepath.Base(dead.Path))) {
		s.w.Node.Command("kill", "-9", process)
	}
	if err := errors.Join(syscall.Unmount(dead.Path, syscall.MNT_DETACH), os.Remove(dead.Path)); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	s.waitReady(t)
	s.runPod(t, pod{name: "next", ports: ports, tcp: "80", udp: "80"})
	s.reaches(t, "tcp", 7400, "next")
	s.remove(t, dead)
	s.reaches(t, "tcp", 7400, "next")
	s.reaches(t, "udp", 7400, "next")
}

func (s scenes) stoppedTwice(t *testing.T) {
	before := s.w.Ruleset()
	p := pod{name: "twice", ports: []*cri.PortMapping{tcp(7100, 80), udp(7100, 80)}, tcp: "80", udp: "80"}
	running := s.runPod(t, p)
	s.reaches(t, "udp", 7100, "twice")
	for range 2 {
		if err := s.stopPod(t.Context(), running); err != nil {
			t.Fatal(err)
		}
		s.expectRuleset(t, before)
	}
	s.silent(t, 7100)

	// The second call must not have hit a pod that has the port by now.
	next := p
	next.name = "next"
	s.runPod(t, next)
	if err := s.stopPod(t.Context(), running); err != nil {
		t.Fatal(err)
	}
	s.reaches(t, "tcp", 7100, "next")
}

func (s scenes) thirtyAtOnce(t *testing.T) {
	const count, base = 30, 20000
	before := s.w.Ruleset()
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
		s.reaches(t, "tcp", uint16(base+i), running.name)
	}

	// They go at once as well.
	if err := each(func(i int) error { return s.stopPod(context.Background(), pods[i]) }); err != nil {
		t.Fatal(err)
	}
	s.expectRuleset(t, before)
}

// containerdKilled is a crash of the runtime: what runs goes on, the restarted
// containerd finds it, and its stop leaves nothing behind.
func (s scenes) containerdKilled(t *testing.T) {
	before := s.w.Ruleset()
	old := pod{name: "old", ports: []*cri.PortMapping{tcp(7200, 80), udp(7200, 80)}, tcp: "80", udp: "80"}
	oldPod, webPod := s.runPod(t, old), s.runPod(t, web)
	running := s.w.Ruleset()

	s.kill(t)
	s.expectRuleset(t, running)
	s.reaches(t, "tcp", 7200, "old")
	s.reaches(t, "udp", 7200, "old")

	s.start(t)
	s.waitReady(t)
	names := s.listed(t)
	slices.Sort(names)
	if !slices.Equal(names, []string{"old", "web"}) {
		t.Errorf("sandboxes after the restart: %v", names)
	}
	s.expectWeb(t, webPod)

	// The port stays its owner's, and new pods come up.
	late := pod{name: "late", ports: []*cri.PortMapping{tcp(7200, 80)}, tcp: "80"}
	s.expectRefusal(t, late, 7200, "default/old")
	freshPod := s.runPod(t, pod{name: "fresh", ports: []*cri.PortMapping{tcp(7201, 80)}, tcp: "80"})
	s.reaches(t, "tcp", 7201, "fresh")

	for _, pod := range []*sandbox{oldPod, webPod, freshPod} {
		s.remove(t, pod)
	}
	s.expectRuleset(t, before)
}

// status is the kubelet's look at a node that cannot serve host ports. A
// containerd that asks its plugins says that the network is not ready, and why;
// one that does not takes pods, which fail.
func (s scenes) status(t *testing.T) {
	if err := s.ready(t); err != nil {
		t.Fatal(err)
	}
	const reason = "table nat does not exist"
	s.w.ReplaceTool("iptables-restore", "echo "+reason+" >&2; exit 3")
	defer s.w.RestoreTools()
	err := s.ready(t)
	switch {
	case s.asksStatus && (err == nil || !strings.Contains(err.Error(), reason)):
		t.Errorf("state of a node without table nat: %v, want %q", err, reason)
	case !s.asksStatus && err != nil:
		t.Errorf("state of a node without table nat: %v", err)
	}
	s.w.RestoreTools()
	if err := s.ready(t); err != nil {
		t.Errorf("state of the node with table nat again: %v", err)
	}
}
