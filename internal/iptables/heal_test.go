package iptables

import (
	"fmt"
	"log/slog"
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
					n.agrees(t)
				})
			})
		}
	}
}

// TestLossThatAnAddDoesNotSee states a limit: an ADD looks at what it relies
// on, and not at others' rules in a chain that is there. Check and Audit do, and
// so does the DEL of the attachment that lost them.
func TestLossThatAnAddDoesNotSee(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		n := &node{b: w.b}
		a, b := everything(), attachment("b", maps("8081:80"))
		n.add(t, a)
		w.run("*nat\n-F CNI-HP-TCP-1F9\nCOMMIT\n", "iptables-restore", "--noflush")
		n.add(t, b)
		if n.differences(t, n.atts...) == "" {
			t.Error("healed: the comment above is out of date")
		}
		n.del(t, a)
		n.agrees(t)
	})
}

func TestServicesStayFirst(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		n := &node{b: w.b}
		n.add(t, attachment("a", maps("8080:80")))
		w.run(kubeProxy, "iptables-restore", "--noflush") // behind us
		if got := n.differences(t, n.atts...); !strings.Contains(got, "ahead of KUBE-SERVICES") {
			t.Errorf("Check: %s", got)
		}
		for range 2 {
			n.rewrite(t)
			for chain, ours := range map[string][]string{"*nat PREROUTING": {dnatChain, vrfChain}, "*nat OUTPUT": {dnatChain}} {
				var targets []string
				for _, r := range w.chains(hostport.IPv4)[chain] {
					targets = append(targets, target(r))
				}
				slices.Sort(targets[min(1, len(targets)):]) // ours may come in any order
				if !slices.Equal(targets, append([]string{servicesChain}, ours...)) {
					t.Errorf("%s leads to %q", chain, targets)
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

func TestReplacement(t *testing.T) {
	// The new pod takes the port of a dead one, and everything else differs.
	eachSample(t, func(t *testing.T, w *world, dead *hostport.Attachment) {
		n := &node{b: w.b}
		n.add(t, dead)
		alive := attachment("z", maps("8080:8080"), addresses("10.244.9.9/24"), options(hostport.Options{SNAT: true, MarkMasqBit: 4}))
		n.apply(t, []*hostport.Attachment{dead}, []*hostport.Attachment{alive})
		n.agrees(t)
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
		if got := n.differences(t, n.atts...); got != "" {
			t.Errorf("Check: %s", got)
		}
		if got := n.audit(t); strings.Count(got, "belongs to no attachment") != 1 {
			t.Errorf("Audit: %s", got)
		}
		// Ahead of it, it is a difference, and Rewrite removes it.
		w.run("*nat\n-I CNI-HP-TCP-1F9 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.244.0.99:80\nCOMMIT\n", "iptables-restore", "--noflush")
		if got := n.differences(t, n.atts...); !strings.Contains(got, "10.244.0.99:80") {
			t.Errorf("Check: %s", got)
		}
		n.rewrite(t)
		if got := w.both(); strings.Contains(got, "10.244.0.99") {
			t.Errorf("after a rewrite:\n%s", got)
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
		if err := n.try(t, nil, []*hostport.Attachment{a}); err == nil {
			t.Error("Apply without the external chain succeeded")
		}
		if got := w.both(); got != before {
			t.Errorf("left:\n%s", got)
		}
		w.run(kubeProxy, "iptables-restore", "--noflush")
		n.add(t, a)
		n.agrees(t)
		if got := w.both(); strings.Contains(got, "-j MASQUERADE") {
			t.Errorf("masquerading of our own:\n%s", got)
		}
		// The chain's owner is away: the ports of all come back without it.
		w.run("*nat\n-F\n-X\nCOMMIT\n", "iptables-restore", "--noflush")
		b := attachment("b", maps("8081:80"))
		n.add(t, b)
		if got := n.differences(t, n.atts...); strings.Count(got, "differs") != 1 || !strings.Contains(got, "KUBE-MARK-MASQ") {
			t.Errorf("Check: %s", got)
		}
		n.del(t, a)
		n.del(t, b)
		if n.resyncs != 2 {
			t.Errorf("%d changes failed at first, want that without the chain and that after the flush", n.resyncs)
		}
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
		var log strings.Builder
		w.b.Log = slog.New(slog.NewTextHandler(&log, nil))
		w.run("*nat\n-F\nCOMMIT\n", "iptables-restore", "--noflush")
		n.add(t, attachment("c", maps("8082:80")))
		if got := n.differences(t, n.atts...); !strings.Contains(got, "a: IPv4: rule 1 of chain CNI-HP-OWN-") {
			t.Errorf("Check: %s", got)
		}
		if got := n.differences(t, n.without([]*hostport.Attachment{a})...); got != "" {
			t.Errorf("the others: %s", got)
		}
		if found, err := w.b.Owners(t.Context()); err != nil || len(found) != 3 {
			t.Errorf("%d owners, error %v", len(found), err)
		}
		if got := log.String(); !strings.Contains(got, "pod-a") || !strings.Contains(got, "left out") {
			t.Errorf("warnings:\n%s", got)
		}
		n.del(t, a)
		n.agrees(t)
		if n.resyncs != 1 {
			t.Errorf("%d changes failed at first, want that after the flush", n.resyncs)
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
		n.rewrite(t)
		w.run("*nat\n-F CNI-HP-DNAT\nCOMMIT\n", "iptables-restore", "--noflush")
		n.del(t, a)
		if diff := cmp.Diff(before, w.both()); diff != "" {
			t.Errorf("-before +after:\n%s", diff)
		}
	})
}
