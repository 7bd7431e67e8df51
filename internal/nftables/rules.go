package nftables

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// rule is one rule as expressions, with the comment that nft shows.
type rule struct {
	exprs   []expr.Any
	comment string
}

func newRule(parts ...[]expr.Any) rule { return rule{exprs: slices.Concat(parts...)} }

// hook is where a base chain sits.
type hook struct {
	kind     nftables.ChainType
	number   nftables.ChainHook
	priority nftables.ChainPriority
	policy   nftables.ChainPolicy
}

// at returns a hook whose chain accepts what its rules say nothing of.
func at(kind nftables.ChainType, number nftables.ChainHook, priority nftables.ChainPriority) hook {
	return hook{kind, number, priority, nftables.ChainPolicyAccept}
}

// chain is a chain with all of its rules.
type chain struct {
	name  string
	hook  hook // zero: reached by jumps only
	rules []rule
}

// same reports whether the chain's rules are these.
func (c chain) same(have []rule) bool { return slices.EqualFunc(c.rules, have, rule.same) }

// Five behind and five ahead of the places where everyone else sits:
// kube-proxy, in its iptables and in its nftables mode, has translated its
// Services before we look, and we masquerade before a main plugin does.
const (
	priorityDNAT = nftables.ChainPriority(-95)
	prioritySNAT = nftables.ChainPriority(95)
	priorityRaw  = nftables.ChainPriority(-300)
)

// set is the declaration of a set or map.
type set struct {
	name     string
	key      nftables.SetDatatype
	data     nftables.SetDatatype // zero: a set
	counters bool
}

// sets returns what a table with these clients declares, in the order in which
// nft lists it.
func sets(clients clientSets) []set {
	var out []set
	for _, f := range hostport.Families() {
		addr := addrType(f)
		port := nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
		hostIP := nftables.MustConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService)
		to := nftables.MustConcatSetType(addr, nftables.TypeInetService)
		wildcard, condWildcard := forwardMaps(f, false)
		specific, condSpecific := forwardMaps(f, true)
		out = append(out,
			set{name: wildcard, key: port, data: to, counters: true},
			set{name: specific, key: hostIP, data: to, counters: true},
			set{name: condWildcard, key: port, data: nftables.TypeVerdict},
			set{name: condSpecific, key: hostIP, data: nftables.TypeVerdict})
	}
	return append(out, clients.declarations()...)
}

func addrType(f hostport.Family) nftables.SetDatatype {
	if f == hostport.IPv4 {
		return nftables.TypeIPAddr
	}
	return nftables.TypeIP6Addr
}

// chains returns all chains but those of the attachments' own conditions, each
// after the chains that it leads to.
func chains(clients clientSets) []chain {
	jump := verdict(expr.VerdictJump, chainHostports)
	toHostports := newRule(isLocal(false), jump)
	return []chain{
		{name: chainGuard, hook: at(nftables.ChainTypeFilter, unix.NF_INET_PRE_ROUTING, priorityRaw), rules: []rule{
			fromLoopbackNet(false), fromLoopbackNet(true),
		}},
		{name: chainUnmapped, rules: []rule{
			// The verdict ends this table's chain, from however deep; chains of
			// others at the same hook still see the packet.
			newRule(setLabel(labelUnmapped), verdict(expr.VerdictAccept, "")),
		}},
		hostports(),
		{name: chainPrerouting, hook: at(nftables.ChainTypeNAT, unix.NF_INET_PRE_ROUTING, priorityDNAT), rules: []rule{
			toHostports,
			newRule(isLocal(true), jump), // not reached by what the first has sent there
		}},
		{name: chainOutput, hook: at(nftables.ChainTypeNAT, unix.NF_INET_LOCAL_OUT, priorityDNAT), rules: []rule{
			notFromIPv6Loopback(), toHostports,
		}},
		clients.chain(),
		{name: chainPostrouting, hook: at(nftables.ChainTypeNAT, unix.NF_INET_POST_ROUTING, prioritySNAT), rules: []rule{
			newRule(isTranslated(), hasLabel(labelUnmapped), verdict(expr.VerdictReturn, "")),
			newRule(isTranslated(), hasLabel(labelSeen), verdict(expr.VerdictJump, chainClients)),
		}},
	}
}

// fromLoopbackNet drops what pretends to be the node's loopback. Linux does so
// by itself, until route_localnet is set on the interface, which 127.0.0.1
// needs to reach a pod (CVE-2020-8558). Answers of pods pass: they are
// addressed to the node and become 127.0.0.1 after this hook.
func fromLoopbackNet(source bool) rule {
	loopback := netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
	return newRule(
		[]expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1}, unequal(ifname("lo"))},
		isFamily(hostport.IPv4), inNet(loopback, source, equal),
		verdict(expr.VerdictDrop, ""))
}

// notFromIPv6Loopback leaves [::1] alone. The kernel has no route_localnet for
// IPv6, so a translated connection would hang, while a refused one makes the
// client of "localhost" go on to 127.0.0.1 at once.
func notFromIPv6Loopback() rule {
	return newRule(isFamily(hostport.IPv6),
		[]expr.Any{loadDestination(hostport.IPv6, reg1), equal(netip.IPv6Loopback().AsSlice())},
		verdict(expr.VerdictReturn, ""))
}

// hostports looks the packet up, the specific host IP before the wildcard. A
// hit ends the evaluation. The label says afterwards who translated: it is set
// before the lookups because nothing comes after a hit, and so a second bit
// tells those that were looked up in vain, which a chain behind ours may yet
// translate.
func hostports() chain {
	c := chain{name: chainHostports, rules: []rule{newRule(setLabel(labelSeen))}}
	toConditions := func(name string) []expr.Any {
		return []expr.Any{&expr.Lookup{SourceRegister: reg1, SetName: name, IsDestRegSet: true}}
	}
	for _, f := range hostport.Families() {
		wildcard, condWildcard := forwardMaps(f, false)
		hostIP, condHostIP := forwardMaps(f, true)
		c.rules = append(c.rules,
			newRule(loadHost(f), toConditions(condHostIP)),
			newRule(isFamily(f), loadPort(0), toConditions(condWildcard)),
			newRule(loadHost(f), translate(f, hostIP)),
			newRule(isFamily(f), loadPort(0), translate(f, wildcard)))
	}
	c.rules = append(c.rules, newRule(verdict(expr.VerdictGoto, chainUnmapped)))
	return c
}

// loadHost loads destination address, protocol and port.
func loadHost(f hostport.Family) []expr.Any {
	return slices.Concat(isFamily(f), []expr.Any{loadDestination(f, reg1)}, loadPort(words(f)))
}

// translate sends the packet where the map says.
func translate(f hostport.Family, name string) []expr.Any {
	port := reg32(words(f))
	return []expr.Any{
		&expr.Lookup{SourceRegister: reg1, SetName: name, DestRegister: reg1, IsDestRegSet: true},
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: uint32(nfnetlink.Family(f)),
			RegAddrMin: reg1, RegAddrMax: reg1, RegProtoMin: port, RegProtoMax: port, Specified: true,
		},
	}
}
