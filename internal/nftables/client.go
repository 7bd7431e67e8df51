package nftables

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/google/nftables/expr"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// clientSet is a set of clients to masquerade, of one family and prefix length:
// client network . pod. Sets of length 0 hold only pods, whose clients are all
// masqueraded. docs/design.md says why there is not one interval set for all lengths.
type clientSet struct {
	family hostport.Family
	bits   int
}

func (c clientSet) name() string {
	return fmt.Sprintf("client%d_%d", uint8(c.family), c.bits)
}

func parseClientSet(name string) (c clientSet, ok bool) {
	if !strings.HasPrefix(name, "client") {
		return c, false // without Sscanf, for each of thousands of elements
	}
	_, _ = fmt.Sscanf(name, "client%d_%d", &c.family, &c.bits)
	known := slices.Contains(hostport.Families(), c.family) && 0 <= c.bits && c.bits <= addrBits(c.family)
	return c, known && c.name() == name
}

func addrBits(f hostport.Family) int { return f.Unspecified().BitLen() }

// rule masquerades the clients of the set.
func (c clientSet) rule() rule {
	key, n := isFamily(c.family), uint32(0)
	if c.bits > 0 {
		key, n = append(key, loadAddr(c.family, true, reg1)), words(c.family)
	}
	if whole := addrBits(c.family); 0 < c.bits && c.bits < whole {
		key = append(key, mask(net.CIDRMask(c.bits, whole)))
	}
	key = append(key, loadAddr(c.family, false, reg32(n)))
	return newRule(key, []expr.Any{&expr.Lookup{SourceRegister: reg1, SetName: c.name()}, &expr.Masq{}})
}

// clientSets are sets of clients. The table has a set and a rule for each that an
// attachment uses: the lookups cost the same for one pod and for thousands.
type clientSets map[clientSet]bool

// clientSetsIn returns the sets of clients among some objects.
func clientSetsIn(objects []object) clientSets {
	cs := make(clientSets)
	for _, s := range only[set](objects) {
		if c, ok := parseClientSet(s.name); ok {
			cs[c] = true
		}
	}
	return cs
}
