package conformance

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Run runs the suite. It calls newHarness in the goroutine of each test, which
// may be moved into the namespace.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	for name, test := range map[string]func(*node){
		"EachKind":            testEachKind,
		"DeleteLast":          testDeleteLast,
		"Replace":             testReplace,
		"SharedRange":         testSharedRange,
		"HostIPsOfTwoPods":    testHostIPsOfTwoPods,
		"TakeOver":            testTakeOver,
		"Owners":              testOwners,
		"RewriteAfterApply":   testRewriteAfterApply,
		"RewriteOverAnything": testRewriteOverAnything,
		"OlderSnapshot":       testOlderSnapshot,
		"Drift":               testDrift,
		"RulesGone":           testRulesGone,
		"AuditFindsStrangers": testAuditFindsStrangers,
		"AuditFindsMissing":   testAuditFindsMissing,
		"AuditFindsDifferent": testAuditFindsDifferent,
		"CancelledChange":     testCancelledChange,
	} {
		t.Run(name, func(t *testing.T) { test(&node{Harness: newHarness(t), t: t}) })
	}
}

// same fails if the ruleset is not byte for byte what it was.
func (n *node) same(was, after string) {
	n.t.Helper()
	if diff := cmp.Diff(strings.Split(was, "\n"), strings.Split(n.Ruleset(), "\n")); diff != "" {
		n.t.Errorf("%s (-before +after):\n%s", after, diff)
	}
}

// testEachKind wants the rules of each kind to match the records, a second ADD to
// change nothing, and DEL to restore what was there before.
func testEachKind(n *node) {
	n.add(n.pod(2, "8002:80", "192.0.2.9@8003:81"))
	before := n.Ruleset()
	if before == "" {
		n.t.Fatal("the harness lists no rules")
	}
	for _, k := range n.kinds() {
		n.add(k.Attachment)
		n.agrees()
		added := n.Ruleset()
		again := *k.Attachment
		n.change([]*hostport.Attachment{k.Attachment}, []*hostport.Attachment{&again})
		n.same(added, k.name+": the same ADD again")
		n.del(&again)
		n.same(before, k.name+": ADD and DEL")
	}
}

// testDeleteLast wants DEL of the last attachment to leave no trace.
func testDeleteLast(n *node) {
	empty := n.Ruleset()
	for _, k := range n.kinds() {
		n.add(k.Attachment)
		n.del(k.Attachment)
		n.same(empty, k.name+": ADD and DEL")
	}
}

// testReplace wants an attachment that is added again with other mappings and
// options to have only the new ones.
func testReplace(n *node) {
	empty := n.Ruleset()
	other := n.pod(2, "8085:80")
	n.add(other)
	a := n.pod(1, "8080:80", "8081:81", "8083:83/udp")
	n.add(a)
	forms := []*hostport.Attachment{
		n.pod(1, "8080:80", "8082:81", "8083:83"),
		n.pod(1, "8080:90"),
		n.pod(1, "192.0.2.1@8080:90"),
	}
	for _, k := range n.kinds() {
		form := *k.Attachment
		form.Key = a.Key
		forms = append(forms, &form)
	}
	for _, b := range forms {
		n.change([]*hostport.Attachment{a}, []*hostport.Attachment{b})
		n.agrees()
		a = b
	}
	n.del(a, other)
	n.same(empty, "after the DEL of both")
}

// testSharedRange adds and deletes pods in one range of ports in any order.
func testSharedRange(n *node) {
	a, b, c := n.pod(1, "8080:80", "8090:80/udp"), n.pod(2, "8081:80"), n.pod(3, "8095:80")
	n.add(a)
	n.add(b)
	n.add(c)
	n.agrees()
	n.del(a)
	n.agrees()
	n.add(a)
	n.del(c)
	n.del(b)
	n.agrees()
	alone := n.Ruleset()
	n.add(b, c)
	n.agrees()
	n.del(b, c)
	n.same(alone, "two pods came and went")
}

// testHostIPsOfTwoPods has two pods with one port at different host IPs, and a
// third with it on every address in the other protocol.
func testHostIPsOfTwoPods(n *node) {
	a, b, c := n.pod(1, "192.0.2.1@8080:80", "2001:db8::1@8080:80"), n.pod(2, "192.0.2.2@8080:80"), n.pod(3, "8080:80/udp")
	n.add(a)
	n.add(b)
	n.add(c)
	n.agrees()
	n.del(a)
	n.agrees()
	n.del(b)
	n.agrees()
}

// testTakeOver gives the port of a dead owner to another one in one change.
func testTakeOver(n *node) {
	dead, heir := n.pod(1, "8080:80", "8081:80"), n.pod(2, "8080:80")
	n.add(dead, n.pod(3, "8082:80"))
	n.change([]*hostport.Attachment{dead}, []*hostport.Attachment{heir})
	n.agrees()
}

// testOwners wants the owners to be read back from the rules.
func testOwners(n *node) {
	read := func(of string, want ...*hostport.Attachment) {
		n.t.Helper()
		got, err := n.Backend.Owners(context.Background())
		if err != nil {
			n.t.Fatal(err)
		}
		if diff := cmp.Diff(facts(want), facts(got), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
			n.t.Errorf("owners of %s (-want +got):\n%s", of, diff)
		}
	}
	read("no rules")
	earlier := n.pod(2, "8081:80", "192.0.2.1@53:53/udp")
	earlier.Boot = "deadbeef"
	n.add(earlier)
	n.add(n.allKinds()...)
	read("all kinds, and one of an earlier boot", n.held...)
	v4, v6 := n.pod(3, "0.0.0.0@8082:80"), n.pod(4, "::@8082:80")
	v4.Addresses, v6.Addresses = v4.Addresses[:1], v6.Addresses[1:]
	n.add(v4, v6)
	read("two pods of one family each at one port", n.held...)
}

// facts returns what rules contain of these attachments, in the order of their keys: not
// the sandbox's path, the pod's UID, the mark of a backend that has none, nor the prefix
// length of a pod whose clients are not masqueraded by subnet.
func facts(all []*hostport.Attachment) []*hostport.Attachment {
	var out []*hostport.Attachment
	for _, a := range all {
		b := *a
		b.Sandbox = hostport.Sandbox{Inode: a.Sandbox.Inode}
		b.Pod.UID, b.LoopbackInterface, b.Options.MarkMasqBit = "", "", 0
		b.Addresses = slices.Clone(a.Addresses)
		if !a.Options.SNAT || a.Options.MasqueradeAll {
			for i, p := range b.Addresses {
				b.Addresses[i] = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
			}
		}
		b.Mappings = slices.Clone(a.Mappings)
		slices.SortFunc(b.Mappings, func(x, y hostport.Mapping) int { return strings.Compare(x.String(), y.String()) })
		out = append(out, &b)
	}
	slices.SortFunc(out, func(x, y *hostport.Attachment) int { return strings.Compare(x.Key.String(), y.Key.String()) })
	return out
}
