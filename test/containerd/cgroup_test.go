//go:build kernels

package containerd

import (
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hostport-cni/hostport/test/world"
)

// TestControlGroups has Debian's containerd on a node with control groups of
// version 2, which the machine of the other tests need not have. test/kernels runs
// it in guests.
func TestControlGroups(t *testing.T) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		t.Fatalf("/sys/fs/cgroup is not of version 2: %v", err)
	}
	for _, b := range world.Backends {
		t.Run("containerd "+debian.name+"/"+string(b), func(t *testing.T) {
			w := world.New(t, world.Options{Backend: b})
			main := b
			if !world.NFTRestores() {
				main = world.IptablesNFT // bridge wants nft 1.0.1
			}
			network := w.NewNetwork(world.NetworkOptions{CNIVersion: debian.cniVersion, MainConfig: masquerade(main)})
			s := scenes{startDaemon(t, debian, w, network.Conflist)}
			s.remove(t, s.runPod(t, pod{name: "first", ports: []*cri.PortMapping{tcp(80, 80)}, tcp: "80"}))
			before := s.w.Ruleset()
			// A subtest's pods are gone when Run returns.
			t.Run("host port 81", s.hostPort)
			t.Run("containerd killed", s.containerdKilled)
			s.expectRuleset(t, before)
		})
	}
}
