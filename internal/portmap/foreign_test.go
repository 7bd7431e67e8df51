package portmap_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/portmap"
	"github.com/hostport-cni/hostport/test/world"
)

// TestForeign wants the other programs with host ports to be named, and them
// and an operator's own use of portmap's mark to be left alone.
func TestForeign(t *testing.T) {
	eachBackend(t, func(s scene) {
		want := []portmap.Foreign{
			{Program: "CRI-O", Where: []string{"table ip crio-hostports", "table ip6 crio-hostports"}},
			{Program: "Docker", Where: []string{"table ip docker-bridges"}},
			{Program: "Podman", Where: []string{"table inet netavark"}},
		}
		if s.w.Backend == world.NFTables {
			s.w.NFT("table ip crio-hostports { }\ntable ip6 crio-hostports { }\ntable ip docker-bridges { }\ntable inet netavark { }\n")
		} else {
			for i, chain := range []string{"KUBE-HOSTPORTS", "DOCKER", "NETAVARK-HOSTPORT-DNAT"} {
				want[i].Where = []string{"chain " + chain}
				s.w.IptablesRestore(world.V4, "*nat\n:"+chain+" - [0:0]\nCOMMIT\n")
			}
		}
		n := s.network("podnet", false, nil, nil)
		before := s.w.Ruleset()
		a := n.MustAdd(s, "a", world.TCP(8080, 80))
		if diff := cmp.Diff(want, s.read().Foreign); diff != "" {
			s.Errorf("foreign programs (-want +got):\n%s", diff)
		}
		s.remove(a)
		if diff := cmp.Diff(before, s.w.Ruleset()); diff != "" {
			s.Errorf("ruleset (-before +after):\n%s", diff)
		}
	})
}

// TestSharedChainInUse keeps portmap's shared chains while an operator's chain
// jumps to one of them.
func TestSharedChainInUse(t *testing.T) {
	w := world.New(t, world.Options{})
	s := scene{T: t, w: w, node: &portmap.Node{CacheDir: w.CacheDir, Run: runOn(w), Tools: portmap.Tools(func(string) (string, error) { return "", nil })}}
	s.node.Tools = portmap.Tools(s.path)
	a := s.network("podnet", false, nil, nil).MustAdd(s, "a", world.TCP(8080, 80))
	w.IptablesRestore(world.V4, "*nat\n:SITE - [0:0]\n-A SITE -j CNI-HOSTPORT-SETMARK\nCOMMIT\n")
	s.remove(a)
	want := "-N SITE\n-A SITE -j CNI-HOSTPORT-SETMARK\n"
	if diff := cmp.Diff(want, w.Iptables(world.V4, "-t", "nat", "-S", "SITE")); diff != "" {
		t.Errorf("chain SITE (-want +got):\n%s", diff)
	}
	masq := fmt.Sprintln("-N CNI-HOSTPORT-MASQ\n-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE")
	if diff := cmp.Diff(masq, w.Iptables(world.V4, "-t", "nat", "-S", "CNI-HOSTPORT-MASQ")); diff != "" {
		t.Errorf("chain CNI-HOSTPORT-MASQ (-want +got):\n%s", diff)
	}
}
