package kubernetes

import "testing"

// pairs is what every scene is played with. Where kube-proxy uses nftables, the
// plugin keeps its records on disk: those of before a reboot are then still
// there, and must count for nothing.
var pairs = []pair{
	{backend: "iptables", proxy: "iptables"},
	{backend: "iptables", proxy: "nftables", dataDir: persistentData, newest: true},
	{backend: "nftables", proxy: "iptables"},
	{backend: "nftables", proxy: "nftables", dataDir: persistentData, newest: true},
}

// familyPairs are clusters without IPv4, and with both families.
var familyPairs = []pair{
	{backend: "iptables", proxy: "iptables", six: true},
	{backend: "nftables", proxy: "nftables", newest: true, six: true, four: true},
}

// scene is played in a cluster.
type scene struct {
	name string
	play func(*testing.T, *cluster)
}

// scenes share a cluster, and come in this order: the last ones disturb it.
var scenes = []scene{
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
	t.Parallel()
	for _, p := range pairs {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			newCluster(t, p).play(t, scenes)
		})
	}
}

// TestFamilies has pods and Services of IPv6, and of both families: each promise
// holds in each of them.
func TestFamilies(t *testing.T) {
	t.Parallel()
	for _, p := range familyPairs {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			newCluster(t, p).play(t, []scene{{"mission", mission}, {"service", service}, {"deletion", deletion}})
		})
	}
}

// play plays scenes that leave nothing behind.
func (c *cluster) play(t *testing.T, scenes []scene) {
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			t.Cleanup(func() {
				c.clear(t)
				c.consistent(t, 0)
			})
			s.play(t, c)
		})
	}
}
