package nftables

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/nfnetlink"
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

// Bits of the connection tracking label, which has 128. Other software that labels
// connections (Open vSwitch) does so in zones of its own.
const (
	labelSeen     = 121 // passed through hostports
	labelUnmapped = 122 // and left it untranslated
)

// maxComment is the longest comment that nft reads back, in bytes.
const maxComment = 128

// Five after and five before the usual priorities: kube-proxy has translated its Services
// before our lookup, and we masquerade before a main plugin does.
const (
	priorityDNAT = nftables.ChainPriority(-95)
	prioritySNAT = nftables.ChainPriority(95)
	priorityRaw  = nftables.ChainPriority(-300)
)

// base returns the objects of a table with these sets of clients, except elements and the
// chains of conditions. Each follows those that it refers to, and the sets are in the
// order in which nft lists them.
func base(clients clientSets) []object {
	out := []object{table{}}
	addrs := map[hostport.Family]nftables.SetDatatype{hostport.IPv4: nftables.TypeIPAddr, hostport.IPv6: nftables.TypeIP6Addr}
	// A hit ends the evaluation. The label tells later that we translated: it is set
	// before the lookups because no rule runs after a hit. So a second bit marks
	// connections without a hit, which a chain after ours may still translate.
	hostports := chain{name: chainHostports, rules: []rule{newRule(setLabel(labelSeen))}}
	for _, f := range hostport.Families() {
		var lookups []rule // backwards: conditions before pods, a host IP before the wildcard
		addr := addrs[f]
		for _, to := range []string{toPod, toConditions} {
			for _, hostIP := range []bool{false, true} {
				s := set{name: mapName(to, f, hostIP), data: concat(nftables.TypeVerdict)}
				s.key = concat(nftables.TypeInetProto, nftables.TypeInetService)
				if hostIP {
					s.key = concat(addr, nftables.TypeInetProto, nftables.TypeInetService)
				}
				if to == toPod {
					s.data, s.counters = concat(addr, nftables.TypeInetService), true
				}
				out, lookups = append(out, s), append([]rule{lookup(to, f, hostIP)}, lookups...)
			}
		}
		hostports.rules = append(hostports.rules, lookups...)
	}
	hostports.rules = append(hostports.rules, newRule(refuse()))
	masquerade := chain{name: chainClients}
	byLength := func(x, y clientSet) int { return cmp.Or(cmp.Compare(x.family, y.family), cmp.Compare(x.bits, y.bits)) }
	for _, c := range slices.SortedFunc(maps.Keys(clients), byLength) {
		addr := addrs[c.family]
		s := set{name: c.name(), key: concat(addr, addr)}
		if c.bits == 0 {
			s.key = concat(addr)
		}
		out = append(out, s)
		masquerade.rules = append(masquerade.rules, c.rule())
	}
	jump := verdict(expr.VerdictJump, chainHostports)
	toHostports := newRule(isLocal(false), jump)
	return append(out,
		hooked(chainGuard, nftables.ChainTypeFilter, unix.NF_INET_PRE_ROUTING, priorityRaw,
			fromLoopbackNet(false), fromLoopbackNet(true)),
		unmapped(),
		hostports,
		hooked(chainPrerouting, nftables.ChainTypeNAT, unix.NF_INET_PRE_ROUTING, priorityDNAT,
			toHostports,
			newRule(isLocal(true), jump)), // not reached by packets that matched the first
		hooked(chainOutput, nftables.ChainTypeNAT, unix.NF_INET_LOCAL_OUT, priorityDNAT,
			// [::1] is left alone. The kernel has no route_localnet for IPv6, so a translated
			// connection would hang, while a refused one makes a client of "localhost" try
			// 127.0.0.1 at once.
			newRule(inNet(netip.PrefixFrom(netip.IPv6Loopback(), 128), false).match(expr.CmpOpEq), verdict(expr.VerdictReturn, "")),
			toHostports),
		masquerade,
		hooked(chainPostrouting, nftables.ChainTypeNAT, unix.NF_INET_POST_ROUTING, prioritySNAT,
			newRule(isTranslated(), hasBits(expr.CtKeyLABELS, label(labelUnmapped)), verdict(expr.VerdictReturn, "")),
			newRule(isTranslated(), hasBits(expr.CtKeyLABELS, label(labelSeen)), verdict(expr.VerdictJump, chainClients))))
}

// unmapped returns the chain that ends the lookups. Its verdict ends this table's base
// chain, from any depth; other chains at the same hook still see the packet.
func unmapped() chain {
	return chain{name: chainUnmapped, rules: []rule{newRule(setLabel(labelUnmapped), verdict(expr.VerdictAccept, ""))}}
}

func newRule(parts ...[]expr.Any) rule { return rule{exprs: slices.Concat(parts...)} }

// hooked returns a base chain with policy accept.
func hooked(name string, kind nftables.ChainType, number nftables.ChainHook, priority nftables.ChainPriority, rules ...rule) chain {
	return chain{name: name, hook: hook{kind, number, priority, nftables.ChainPolicyAccept}, rules: rules}
}

// concat returns the type of a concatenation, without a name.
func concat(parts ...nftables.SetDatatype) nftables.SetDatatype {
	t := nftables.MustConcatSetType(parts...)
	t.Name = ""
	return t
}

// fromLoopbackNet drops packets that pretend to be the node's loopback traffic.
// Linux does so by itself, until route_localnet is set on the interface, which
// 127.0.0.1 needs to reach a pod (CVE-2020-8558). Replies of pods pass: they are
// addressed to the node and become 127.0.0.1 after this hook.
func fromLoopbackNet(source bool) rule {
	loopback := netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
	return newRule(fromInterface("lo").match(expr.CmpOpNeq), inNet(loopback, source).match(expr.CmpOpEq), verdict(expr.VerdictDrop, ""))
}

// lookup sends a packet where the map says. Its key is protocol and destination
// port, after the destination address if hostIP is set.
func lookup(to string, f hostport.Family, hostIP bool) rule {
	key, n := isFamily(f), uint32(0)
	if hostIP {
		key, n = append(key, loadAddr(f, false, reg1)), words(f)
	}
	key = append(key,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg32(n)},
		&expr.Payload{DestRegister: reg32(n + 1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
	name, port := mapName(to, f, hostIP), reg32(words(f))
	if to == toConditions {
		return newRule(key, []expr.Any{&expr.Lookup{SourceRegister: reg1, SetName: name, IsDestRegSet: true}})
	}
	return newRule(key, []expr.Any{
		&expr.Lookup{SourceRegister: reg1, SetName: name, DestRegister: reg1, IsDestRegSet: true},
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: uint32(nfnetlink.Family(f)),
			RegAddrMin: reg1, RegAddrMax: reg1, RegProtoMin: port, RegProtoMax: port, Specified: true,
		},
	})
}

// clientSet is a set of clients to masquerade, of one family and prefix length: client
// network . pod. Sets of length 0 hold only pods, whose clients are all masqueraded.
// docs/design.md says why there is not one interval set for all lengths.
type clientSet struct {
	family hostport.Family
	bits   int
}

func (c clientSet) name() string { return fmt.Sprintf("client%d_%d", uint8(c.family), c.bits) }

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

// clientSets are the sets that attachments use. The table has a set and a rule for each.
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
