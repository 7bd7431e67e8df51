package nftables

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// The objects of table inet hostport, besides the maps (see mapName), the sets of
// clients (see clientSet), and the chains of conditions (see conditionChain). None is
// a keyword of nft: `nft -f` would not load a listing with a chain called dnat.
const (
	tableName = "hostport"

	chainGuard       = "guard"                          // drops 127.0.0.0/8 that did not come from lo
	chainPrerouting  = "prerouting"                     // from elsewhere, to an address of the node
	chainOutput      = "output"                         // from the node itself, to an address of the node
	chainHostports   = "hostports"                      // the lookups
	chainUnmapped    = "unmapped"                       // records that nothing was translated, and ends the lookups
	chainClients     = "clients" + backend.LayoutSuffix // masquerades
	chainPostrouting = "postrouting"                    // sends what was translated here, and nothing else, to chainClients
)

// What the maps of host ports lead to.
const (
	toPod        = "v"    // pod . container port
	toConditions = "cond" // jump to the conditions of the attachment that holds the port ("only" in layout 1)
)

// mapName returns the name of a map of family f, such as v4 or cond6_hostip. Its
// keys are protocol . host port, for every address of the node, or with hostIP, host
// IP . protocol . host port.
func mapName(to string, f hostport.Family, hostIP bool) string {
	name := fmt.Sprintf("%s%d", to, f)
	if hostIP {
		name += "_hostip"
	}
	return name
}

// Bits of the connection tracking label, which has 128. Packets are not
// marked, and other software that labels connections (Open vSwitch) does so in
// zones of its own.
const (
	labelSeen     = 121 // passed through hostports
	labelUnmapped = 122 // and left it untranslated
)

// maxComment is the longest comment that nft reads back, in bytes.
const maxComment = 128

// Concerned reports whether a change of a table may have touched our rules.
func Concerned(family uint8, table string) bool {
	return family == unix.NFPROTO_INET && table == tableName
}
