//go:build tools

package integration

import (
	"slices"
	"testing"
)

// TestTools is the part of the table that the versions of iptables and nft have a
// say in: what is programmed, listed, compared, saved and restored.
func TestTools(t *testing.T) {
	table := slices.Concat(
		foreignScenarios(),
		checkScenarios(),
		healScenarios(),
		syncScenarios(),
		reloadScenarios(),
		gcScenarios(),
		lostStateScenarios(),
		earlierBootScenarios(),
		unreadableScenarios(),
		variantScenarios(),
		statusScenarios(),
		optionScenarios(),
		conditionScenarios(),
		ownOptionScenarios(),
		nftablesScenarios(),
		nftablesNeighbourScenarios(),
		togetherScenarios(),
		listingScenarios(),
		named(slices.Concat(reachScenarios(), hostIPScenarios(), extentScenarios(), loopbackScenarios(), lifecycleScenarios()),
			"tcp from outside keeps the client's address",
			"udp from outside keeps the client's address",
			"sctp is programmed",
			"host IP",
			"host IP beside a wildcard of the same pod",
			"500 mappings on one pod",
			"the node through 127.0.0.1",
			"a pod on the same bridge",
			"ADD of the same container replaces its mappings",
		),
	)
	// These take long, and what they are about is not the tools.
	runScenarios(t, slices.DeleteFunc(table, func(s scenario) bool {
		return slices.Contains([]string{
			"foreign commits during 40 ADDs and DELs",
			"many pods at once",
			"DEL in parallel",
			"hostListener deny refuses a port that is listened on",
			"an unreadable state file is moved aside and rebuilt",
			"an empty state file is rebuilt",
			"a cut state file is rebuilt",
			"lost state, then GC without a list",
			"lost state, then DEL of another pod",
			"lost state, then CHECK",
			"lost state, then hostportctl list",
			"lost state, then hostportctl prune",
			"GC by the runtime",
			"GC without a list",
			"every version of the specification",
			"one line a verb in the log file",
			"two state directories on one node",
			"two state directories, and GC and hostportctl on either",
		}, s.name)
	}))
}
