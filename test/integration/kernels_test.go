//go:build kernels

package integration

import (
	"slices"
	"testing"
)

// TestKernels has a scene for each behaviour, and those that need what not every
// kernel has. test/kernels runs it in guests.
func TestKernels(t *testing.T) {
	runScenarios(t, slices.Concat(
		named(slices.Concat(
			reachScenarios(), hostIPScenarios(), extentScenarios(), foreignScenarios(), loopbackScenarios(),
			deadOwnerScenarios(), lifecycleScenarios(), checkScenarios(), healScenarios(), syncScenarios(),
			reloadScenarios(), gcScenarios(), lostStateScenarios(), variantScenarios(), statusScenarios(),
			udpScenarios(), optionScenarios(), conditionScenarios(), nftablesNeighbourScenarios(), listingScenarios(),
		),
			"tcp from outside keeps the client's address",
			"udp from outside keeps the client's address",
			"the node through its own address",
			"the node through 127.0.0.1",
			"the pod itself",
			"a pod on the same bridge without bridge netfilter",
			"a routed pod",
			"host IP",
			"both families of a dual-stack pod",
			"passing traffic is left alone",
			"a Service wins over a host port",
			"kube-proxy's nftables mode wins, registered before us",
			"127.0.0.1 stays closed to neighbours of the node",
			"a dead owner's port is taken over",
			"a flush of the whole ruleset is healed",
			"a restored older ruleset lacks no pod after the next ADD",
			"what the backend's tool saves is what it restores",
			"a listing that nft cannot load is refused as a whole",
			"sync after a flush",
			"GC removes what is not valid, of one network",
			"lost state, then ADD of another port",
			"iptables changes its variant and back",
			"STATUS of a node that can serve",
			"a UDP flow that began before the pod reaches it",
			"masqAll masquerades every client",
			"a condition on the client",
		),
		kernelScenarios(),
		firewallScenarios(),
	))
}
