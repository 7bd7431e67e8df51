package iptables

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// TestNextChangeHeals: whatever another program took away, the next ADD and
// the next DEL bring back for everyone.
func TestNextChangeHeals(t *testing.T) {
	for name, damage := range map[string]string{
		"flush of nat":     "*nat\n-F\nCOMMIT\n",
		"empty nat":        "*nat\n-F\n-X\nCOMMIT\n",
		"flush of raw":     "*raw\n-F\nCOMMIT\n",
		"no PREROUTING":    "*nat\n-F PREROUTING\nCOMMIT\n",
		"no POSTROUTING":   "*nat\n-F POSTROUTING\nCOMMIT\n",
		"no dispatch":      "*nat\n-F CNI-HP-DNAT\nCOMMIT\n",
		"no narrow ranges": "*nat\n-F CNI-HP-TCP-1F\nCOMMIT\n",
		"no masquerade":    "*nat\n-F CNI-HP-MASQ\nCOMMIT\n",
	} {
		for _, verb := range []string{"ADD", "DEL"} {
			t.Run(name+"/"+verb, func(t *testing.T) {
				eachVariant(t, func(t *testing.T, w *world) {
					n := &node{b: w.b}
					a, b := everything(), attachment("b", maps("8081:80"), addresses("10.244.0.41/24"), localnet)
					n.add(t, a, b)
					c := attachment("c", maps("8082:80"), addresses("10.244.0.42/24"), localnet)
					if verb == "DEL" {
						n.add(t, c)
					}
					w.run(damage, "iptables-restore", "--noflush")
					if verb == "DEL" {
						n.del(t, c)
					} else {
						n.add(t, c)
					}
					if err := w.b.Check(t.Context(), n.atts); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// TestLossThatAnAddDoesNotSee states a limit: an ADD looks at what it relies
// on, and not at others' rules in a chain that is there. Check and Sync do, and
// so does the DEL of the attachment that lost them.
func TestLossThatAnAddDoesNotSee(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		n := &node{b: w.b}
		a, b := everything(), attachment("b", maps("8081:80"))
		n.add(t, a)
		w.run("*nat\n-F CNI-HP-TCP-1F9\nCOMMIT\n", "iptables-restore", "--noflush")
		n.add(t, b)
		if err := w.b.Check(t.Context(), n.atts); err == nil {
			t.Error("healed: the comment above is out of date")
		}
		n.del(t, a)
		if err := w.b.Check(t.Context(), n.atts); err != nil {
			t.Error(err)
		}
	})
}

func TestServicesStayFirst(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		n := &node{b: w.b}
		n.add(t, attachment("a", maps("8080:80")))
		w.run(kubeProxy, "iptables-restore", "--noflush") // behind us
		err := w.b.Check(t.Context(), n.atts)
		if err == nil || !strings.Contains(err.Error(), "ahead of KUBE-SERVICES") {
			t.Errorf("Check: %v", err)
		}
		for range 2 {
			if err := w.b.Sync(t.Context(), n.atts); err != nil {
				t.Fatal(err)
			}
			for _, chain := range []string{"*nat PREROUTING", "*nat OUTPUT"} {
				rules := w.chains(hostport.IPv4)[chain]
				if len(rules) != 2 || target(rules[0]) != servicesChain || target(rules[1]) != dnatChain {
					t.Errorf("%s holds %q", chain, rules)
				}
			}
			if rules := w.chains(hostport.IPv4)["*nat POSTROUTING"]; len(rules) != 2 || target(rules[0]) != masqChain {
				t.Errorf("POSTROUTING holds %q", rules)
			}
			// Again with every rule of ours twice.
			w.run("*nat\n-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HP-DNAT\n-I OUTPUT -m addrtype --dst-type LOCAL -j CNI-HP-DNAT\n-A POSTROUTING -j CNI-HP-MASQ\nCOMMIT\n", "iptables-restore", "--noflush")
		}
	})
}

func TestAddTwiceEqualsOnce(t *testing.T) {
	eachSample(t, func(t *testing.T, w *world, a *hostport.Attachment) {
		n := &node{b: w.b}
		n.add(t, attachment("b", maps("8089:80"), addresses("10.244.0.41/24")), a)
		once := w.both()
		again := *a
		n.apply(t, []*hostport.Attachment{a}, []*hostport.Attachment{&again})
		if diff := cmp.Diff(sortLines(once), sortLines(w.both())); diff != "" {
			t.Errorf("after the same ADD again (-once +twice):\n%s", diff)
		}
	})
}

func TestReplacement(t *testing.T) {
	// The new pod takes the port of a dead one, and everything else differs.
	eachSample(t, func(t *testing.T, w *world, dead *hostport.Attachment) {
		n := &node{b: w.b}
		n.add(t, dead)
		alive := attachment("z", maps("8080:8080"), addresses("10.244.9.9/24"), options(hostport.Options{SNAT: true, MarkMasqBit: 4}))
		n.apply(t, []*hostport.Attachment{dead}, []*hostport.Attachment{alive})
		if err := w.b.Check(t.Context(), n.atts); err != nil {
			t.Error(err)
		}
		if got := w.both(); strings.Contains(got, "pod-a") || strings.Contains(got, guardChain) {
			t.Errorf("the dead owner has rules:\n%s", got)
		}
		n.del(t, alive)
		if got := w.both(); strings.Contains(got, prefix) {
			t.Errorf("left:\n%s", got)
		}
	})
}

// TestStaleRuleLoses: a rule that a restored dump brought back must not win
// over the attachment that is added next.
func TestStaleRuleLoses(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		n := &node{b: w.b}
		n.add(t, attachment("b", maps("8081:80")))
		w.run("*nat\n-A CNI-HP-TCP-1F9 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.244.0.99:80\nCOMMIT\n", "iptables-restore", "--noflush")
		a := attachment("a", maps("8080:80"))
		n.add(t, a)
		if err := w.b.Check(t.Context(), n.atts); err != nil {
			t.Error(err)
		}
		// Ahead of it, it is a difference, and Sync removes it.
		w.run("*nat\n-I CNI-HP-TCP-1F9 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.244.0.99:80\nCOMMIT\n", "iptables-restore", "--noflush")
		err := w.b.Check(t.Context(), n.atts)
		if err == nil || !strings.Contains(err.Error(), "10.244.0.99:80") {
			t.Errorf("Check: %v", err)
		}
		if err := w.b.Sync(t.Context(), n.atts); err != nil {
			t.Fatal(err)
		}
		if got := w.both(); strings.Contains(got, "10.244.0.99") {
			t.Errorf("after Sync:\n%s", got)
		}
	})
}

func TestExternalMarkChain(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		external := func(id string, port int) *hostport.Attachment {
			return attachment(id, maps(fmt.Sprintf("%d:80", port)), options(hostport.Options{SNAT: true, ExternalSetMarkChain: "KUBE-MARK-MASQ"}))
		}
		n := &node{b: w.b}
		a := external("a", 8080)
		before := w.both()
		if err := w.b.Apply(t.Context(), n.change(nil, []*hostport.Attachment{a})); err == nil {
			t.Error("Apply without the external chain succeeded")
		}
		if got := w.both(); got != before {
			t.Errorf("left:\n%s", got)
		}
		w.run(kubeProxy, "iptables-restore", "--noflush")
		n.add(t, a)
		if err := w.b.Check(t.Context(), n.atts); err != nil {
			t.Error(err)
		}
		if got := w.both(); strings.Contains(got, masqChain) {
			t.Errorf("masquerading of our own:\n%s", got)
		}
		// The chain's owner is away: the ports of all come back without it.
		w.run("*nat\n-F\n-X\nCOMMIT\n", "iptables-restore", "--noflush")
		b := attachment("b", maps("8081:80"))
		n.add(t, b)
		err := w.b.Check(t.Context(), n.atts)
		if err == nil || strings.Count(err.Error(), "missing rule") != 2 || !strings.Contains(err.Error(), "KUBE-MARK-MASQ") {
			t.Errorf("Check: %v", err)
		}
		w.run(kubeProxy, "iptables-restore", "--noflush")
		n.del(t, b)
		n.del(t, a)
		if got := w.both(); strings.Contains(got, prefix) {
			t.Errorf("left:\n%s", got)
		}
	})
}

// TestConditionThatCannotBeMetAnyMore: what one attachment's conditions name is
// gone; the others must not stay without their ports.
func TestConditionThatCannotBeMetAnyMore(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		n := &node{b: w.b}
		conditional := func(id, port, set string) *hostport.Attachment {
			return attachment(id, maps(port), options(hostport.Options{SNAT: true, MarkMasqBit: 13, ConditionsV4: []string{"-m", "set", "--match-set", set, "src"}}))
		}
		a := conditional("a", "8080:80", "gone")
		good := conditional("g", "8083:80", "gone")
		good.Options.ConditionsV4 = []string{"!", "-s", "192.0.2.0/24"}
		b := attachment("b", maps("8081:80"))
		n.add(t, b, good)
		n.atts = append(n.atts, a) // as recorded, its rules lost
		w.run("*nat\n-F\nCOMMIT\n", "iptables-restore", "--noflush")
		n.add(t, attachment("c", maps("8082:80")))
		err := w.b.Check(t.Context(), n.atts)
		if err == nil || !strings.Contains(err.Error(), "pod-a") {
			t.Errorf("Check: %v", err)
		}
		if err := w.b.Check(t.Context(), slices.DeleteFunc(slices.Clone(n.atts), func(x *hostport.Attachment) bool { return x == a })); err != nil {
			t.Errorf("the others: %v", err)
		}
		n.del(t, a)
		if err := w.b.Check(t.Context(), n.atts); err != nil {
			t.Error(err)
		}
	})
}

// TestForeignRulesAreKept: rules of others survive everything that we do, in
// their order.
func TestForeignRulesAreKept(t *testing.T) {
	const foreign = `*nat
:DOCKER - [0:0]
-A PREROUTING -m comment --comment "not -j CNI-HP-DNAT" -j DOCKER
-A PREROUTING -p tcp -m tcp --dport 8080 -j LOG --log-prefix "to CNI-HP-DNAT "
-A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE
-A DOCKER -j RETURN
COMMIT
`
	eachVariant(t, func(t *testing.T, w *world) {
		w.run(foreign, "iptables-restore", "--noflush")
		before := w.both()
		n := &node{b: w.b}
		a := everything()
		n.add(t, a)
		if err := w.b.Sync(t.Context(), n.atts); err != nil {
			t.Fatal(err)
		}
		w.run("*nat\n-F CNI-HP-DNAT\nCOMMIT\n", "iptables-restore", "--noflush")
		n.del(t, a)
		if diff := cmp.Diff(before, w.both()); diff != "" {
			t.Errorf("-before +after:\n%s", diff)
		}
	})
}

// Rules restored from another time are as good as lost: some pods came since,
// some went.
func TestOlderRulesAreRewritten(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		n := &node{b: w.b}
		stays := attachment("stays", maps("8080:80"), addresses("10.244.0.2/24"))
		gone := attachment("gone", maps("8081:80"), addresses("10.244.0.3/24"))
		later := attachment("later", maps("8082:80"), addresses("10.244.0.4/24"))
		next := attachment("next", maps("8083:80"), addresses("10.244.0.5/24"))
		n.add(t, stays, gone)
		earlier := w.run("", saveTool(hostport.IPv4))
		restore := func() { w.run(earlier, restoreTool(hostport.IPv4)) }

		n.del(t, gone)
		n.add(t, later)
		restore()
		if err := w.b.Check(t.Context(), []*hostport.Attachment{stays}); err == nil || !strings.Contains(err.Error(), "another time") {
			t.Errorf("Check: %v", err)
		}
		n.add(t, next)
		w.wants(n)

		n.del(t, next)
		restore()
		n.del(t, later)
		w.wants(n)

		restore()
		n.del(t, stays)
		if left := w.both(); strings.Contains(left, "CNI-HP") {
			t.Errorf("rules after the last DEL:\n%s", left)
		}
	})
}

// wants compares the rules with those that Sync makes from nothing.
func (w *world) wants(n *node) {
	w.t.Helper()
	got := w.chains(hostport.IPv4)
	for _, all := range [][]*hostport.Attachment{nil, n.atts} {
		if err := w.b.Sync(w.t.Context(), all); err != nil {
			w.t.Fatal(err)
		}
	}
	if diff := cmp.Diff(w.chains(hostport.IPv4), got); diff != "" {
		w.t.Errorf("rules (-want +got):\n%s", diff)
	}
}
