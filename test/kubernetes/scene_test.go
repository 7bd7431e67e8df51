package kubernetes

import (
	"net/netip"
	"testing"
)

// pairs is what every scene is played with. Where kube-proxy uses nftables, the
// plugin keeps its records on disk: those of before a reboot are then still
// there, and must count for nothing.
var pairs = []pair{
	{backend: "iptables", proxy: "iptables"},
	{backend: "iptables", proxy: "nftables", dataDir: persistentData, newest: true},
	{backend: "nftables", proxy: "iptables"},
	{backend: "nftables", proxy: "nftables", dataDir: persistentData, newest: true},
}

// scenes share a cluster, and come in this order: the last ones disturb it.
var scenes = []struct {
	name string
	play func(*testing.T, *cluster)
}{
	{"mission", mission},
	{"service", service},
	{"explained", explained},
	{"HostPort validates that there is no conflict between pods with same hostPort but different hostIP and protocol", noConflict},
	{"SchedulerPredicates validates that there exists conflict between pods with same hostPort and protocol but one using 0.0.0.0 hostIP", conflict},
	{"deletion", deletion},
	{"rollout", rollout},
	{"UDP flow", udpFlow},
	{"crowd", crowd},
	{"containerd restarted", containerdRestarted},
	{"node rebooted", nodeRebooted},
}

func TestKubernetes(t *testing.T) {
	for _, p := range pairs {
		t.Run(p.String(), func(t *testing.T) {
			c := newCluster(t, p)
			for _, scene := range scenes {
				t.Run(scene.name, func(t *testing.T) {
					t.Cleanup(func() {
						c.clear(t)
						c.consistent(t, 0)
					})
					scene.play(t, c)
				})
			}
		})
	}
}

// onNode is a port of the node, as the outside knows it.
func onNode(port int32) netip.AddrPort {
	return netip.AddrPortFrom(nodeAddress.Addr(), uint16(port))
}

// onLocalhost is the same port, as only the node itself may know it.
func onLocalhost(port int32) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
}
