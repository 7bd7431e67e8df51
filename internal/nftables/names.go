package nftables

import "github.com/hostport-cni/hostport/pkg/hostport"

// The objects of table inet hostport, besides the sets of clients (see
// clientSet), the chains of conditions (see conditionChain) and chainClients.
// None is a word of the nft language: `nft -f` would not load a listing with a
// chain called dnat.
const (
	tableName = "hostport"

	mapV4       = "v4"        // protocol . host port -> pod . container port, on every IPv4 address of the node
	mapV4HostIP = "v4_hostip" // host IP . protocol . host port -> pod . container port
	mapV6       = "v6"        // as v4
	mapV6HostIP = "v6_hostip" // as v4_hostip

	mapCond4       = "cond4"        // protocol . host port -> jump to the conditions of the attachment that holds it
	mapCond4HostIP = "cond4_hostip" // host IP . protocol . host port -> the same
	mapCond6       = "cond6"        // as cond4
	mapCond6HostIP = "cond6_hostip" // as cond4_hostip

	chainGuard       = "guard"       // drops 127.0.0.0/8 that did not come from lo
	chainPrerouting  = "prerouting"  // from elsewhere, to an address of the node
	chainOutput      = "output"      // from the node itself, to an address of the node
	chainHostports   = "hostports"   // the lookups
	chainUnmapped    = "unmapped"    // notes that nothing was translated, and ends the lookups
	chainPostrouting = "postrouting" // sends what was translated here, and nothing else, to chainClients
)

// The maps of conditions of layout 1, which Owners still reads.
const (
	mapOnly4       = "only4"
	mapOnly4HostIP = "only4_hostip"
	mapOnly6       = "only6"
	mapOnly6HostIP = "only6_hostip"
)

// Bits of the connection tracking label, which has 128. Packets are not
// marked, and other software that labels connections (Open vSwitch) does so in
// zones of its own.
const (
	labelSeen     = 121 // came by hostports
	labelUnmapped = 122 // and left it untranslated
)

// maxComment is the longest comment that nft reads back, in bytes.
const maxComment = 128

// forwardMaps returns the maps of a family that lead to pods and to conditions:
// those for every address of the node, or those for a certain host IP.
func forwardMaps(f hostport.Family, hostIP bool) (toPod, toConditions string) {
	switch {
	case f == hostport.IPv4 && hostIP:
		return mapV4HostIP, mapCond4HostIP
	case f == hostport.IPv4:
		return mapV4, mapCond4
	case hostIP:
		return mapV6HostIP, mapCond6HostIP
	default:
		return mapV6, mapCond6
	}
}
