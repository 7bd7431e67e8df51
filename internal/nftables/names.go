package nftables

import (
	"strconv"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// The objects of table inet hostport. None is a word of the nft language:
// `nft -f` would not load a listing with a chain called dnat.
const (
	tableName = "hostport"

	mapV4       = "v4"        // protocol . host port -> pod . container port, on every IPv4 address of the node
	mapV4HostIP = "v4_hostip" // host IP . protocol . host port -> pod . container port
	mapV6       = "v6"        // as v4
	mapV6HostIP = "v6_hostip" // as v4_hostip

	mapOnly4       = "only4"        // protocol . host port -> jump to the conditions of the attachment that holds it
	mapOnly4HostIP = "only4_hostip" // host IP . protocol . host port -> the same
	mapOnly6       = "only6"        // as only4
	mapOnly6HostIP = "only6_hostip" // as only4_hostip

	// client4_L and client6_L: client network of prefix length L . pod. Who is
	// in it is masqueraded on the way to that pod. client4_0 and client6_0 hold
	// pods alone: everyone is.

	chainGuard       = "guard"       // drops 127.0.0.0/8 that did not come from lo
	chainPrerouting  = "prerouting"  // from elsewhere, to an address of the node
	chainOutput      = "output"      // from the node itself, to an address of the node
	chainHostports   = "hostports"   // the lookups
	chainUnmapped    = "unmapped"    // notes that nothing was translated, and ends the lookups
	chainPostrouting = "postrouting" // what was translated here, and nothing else, goes on to clients
	chainClients     = "clients"     // masquerades
)

// Names of shared objects, as the state counts their users. A client set's
// name stands for itself and its rule.
const (
	shareBase  = "base"
	shareOnly4 = mapOnly4
	shareOnly6 = mapOnly6
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

// forwardMaps are the maps of a family: for every address of the node, and for
// a certain host IP.
func forwardMaps(f hostport.Family) (wildcard, hostIP string) {
	if f == hostport.IPv4 {
		return mapV4, mapV4HostIP
	}
	return mapV6, mapV6HostIP
}

// onlyMaps are the verdict maps that lead to an attachment's conditions.
func onlyMaps(f hostport.Family) (wildcard, hostIP string) {
	if f == hostport.IPv4 {
		return mapOnly4, mapOnly4HostIP
	}
	return mapOnly6, mapOnly6HostIP
}

func shareOnly(f hostport.Family) string {
	if f == hostport.IPv4 {
		return shareOnly4
	}
	return shareOnly6
}

// clientSet is a set of clients to masquerade: those of one family and prefix
// length.
type clientSet struct {
	family hostport.Family
	bits   int
}

func (c clientSet) name() string {
	return "client" + strconv.Itoa(int(c.family)) + "_" + strconv.Itoa(c.bits)
}

// parseClientSet reads such a name.
func parseClientSet(name string) (clientSet, bool) {
	for _, f := range hostport.Families() {
		prefix := clientSet{f, 0}.name()
		digits, ok := strings.CutPrefix(name, prefix[:len(prefix)-1])
		if !ok {
			continue
		}
		bits, err := strconv.Atoi(digits)
		c := clientSet{f, bits}
		return c, err == nil && 0 <= bits && bits <= addrBits(f) && c.name() == name
	}
	return clientSet{}, false
}

// clientSets lists all there can be.
func clientSets() []clientSet {
	var all []clientSet
	for _, f := range hostport.Families() {
		for bits := range addrBits(f) + 1 {
			all = append(all, clientSet{f, bits})
		}
	}
	return all
}

func addrBits(f hostport.Family) int {
	if f == hostport.IPv4 {
		return 32
	}
	return 128
}
