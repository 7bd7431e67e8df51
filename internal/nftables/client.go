package nftables

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// clientSet is a set of clients to masquerade, of one family and prefix length:
// client network . pod. Sets of length 0 hold pods alone, whose clients are
// all masqueraded.
//
// The prefix length is in the rule, so that the set can be a hash. One
// concatenated interval set for all lengths would make the shape of the table
// constant, but it costs more with every pod: on Linux 6.18, beside 250 pods, a
// lookup takes 1.5 µs instead of 0.1, and a transaction that deletes one
// element 20 ms instead of 0.6 (100 ms beside 10,000).
type clientSet struct {
	family hostport.Family
	bits   int
}

func (c clientSet) name() string {
	return fmt.Sprintf("client%d_%d", uint8(c.family), c.bits)
}

// parseClientSet reads such a name.
func parseClientSet(name string) (c clientSet, ok bool) {
	_, err := fmt.Sscanf(name, "client%d_%d", &c.family, &c.bits)
	known := err == nil && slices.Contains(hostport.Families(), c.family) && c.name() == name
	return c, known && 0 <= c.bits && c.bits <= addrBits(c.family)
}

func addrBits(f hostport.Family) int {
	if f == hostport.IPv4 {
		return 32
	}
	return 128
}

// clientSets is a group of sets. The table has a set and a rule for each that
// an attachment uses.
type clientSets map[clientSet]bool

// add adds the sets that an attachment uses.
func (cs clientSets) add(a *hostport.Attachment) {
	for _, f := range hostport.Families() {
		if len(a.Forwards(f)) == 0 {
			continue
		}
		for _, client := range a.Clients(f) {
			cs[clientSet{f, client.Bits()}] = true
		}
	}
}

func clientSetsOf(all []*hostport.Attachment) clientSets {
	cs := make(clientSets)
	for _, a := range all {
		cs.add(a)
	}
	return cs
}

func (cs clientSets) union(o clientSets) clientSets {
	u := maps.Clone(cs)
	maps.Copy(u, o)
	return u
}

// without returns the sets that o lacks.
func (cs clientSets) without(o clientSets) clientSets {
	w := maps.Clone(cs)
	maps.DeleteFunc(w, func(c clientSet, _ bool) bool { return o[c] })
	return w
}

// sorted is the order of the sets and of their rules.
func (cs clientSets) sorted() []clientSet {
	return slices.SortedFunc(maps.Keys(cs), func(x, y clientSet) int {
		return cmp.Or(cmp.Compare(x.family, y.family), cmp.Compare(x.bits, y.bits))
	})
}

func (c clientSet) declare() set {
	addr := addrType(c.family)
	if c.bits == 0 {
		return set{name: c.name(), key: addr}
	}
	return set{name: c.name(), key: nftables.MustConcatSetType(addr, addr)}
}

func (cs clientSets) declarations() []set {
	var out []set
	for _, c := range cs.sorted() {
		out = append(out, c.declare())
	}
	return out
}

// rule masquerades the clients of one set.
func (c clientSet) rule() rule {
	f, match := c.family, isFamily(c.family)
	if c.bits == 0 {
		match = append(match, loadDestination(f, reg1))
	} else {
		match = append(match, loadSource(f, reg1))
		if c.bits < addrBits(f) {
			match = append(match, mask(net.CIDRMask(c.bits, addrBits(f))))
		}
		match = append(match, loadDestination(f, reg32(words(f))))
	}
	return newRule(match, []expr.Any{&expr.Lookup{SourceRegister: reg1, SetName: c.name()}, &expr.Masq{}})
}

// chain has one rule for each set: the lookups cost the same for one pod and
// for thousands.
func (cs clientSets) chain() chain {
	c := chain{name: chainClients}
	for _, s := range cs.sorted() {
		c.rules = append(c.rules, s.rule())
	}
	return c
}

// clientSetsIn returns those that are declared in the kernel.
func clientSetsIn(sets map[string]declaration) clientSets {
	cs := make(clientSets)
	for name := range sets {
		if c, ok := parseClientSet(name); ok {
			cs[c] = true
		}
	}
	return cs
}
