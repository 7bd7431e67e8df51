package iptables

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

const dual = "10.244.0.40/24 fd00:10:244::28/64"

var samples = map[string]func() *hostport.Attachment{
	"plain": func() *hostport.Attachment { return attachment("a", maps("8080:80")) },
	"dual stack": func() *hostport.Attachment {
		return attachment("a", maps("8080:80", "8080:80/udp", "53:53/udp"), addresses(strings.Fields(dual)...))
	},
	"edge ports": func() *hostport.Attachment {
		return attachment("a", maps("1:65535", "65535:1", "65535:1/udp"), addresses(strings.Fields(dual)...))
	},
	"sctp":     func() *hostport.Attachment { return attachment("a", maps("9999:9/sctp")) },
	"localnet": func() *hostport.Attachment { return attachment("a", maps("8080:80"), localnet) },
	"host IPs": func() *hostport.Attachment {
		return attachment("a", maps("192.0.2.1@8080:81", "0.0.0.0@8080:80", "2001:db8::1@8080:82", "::@8080:83"), addresses(strings.Fields(dual)...))
	},
	"no masquerade": func() *hostport.Attachment {
		return attachment("a", maps("8080:80"), options(hostport.Options{}))
	},
	"masquerade all": func() *hostport.Attachment {
		return attachment("a", maps("8080:80"), addresses(strings.Fields(dual)...), options(hostport.Options{SNAT: true, MasqueradeAll: true, MarkMasqBit: 31}))
	},
	"conditions": func() *hostport.Attachment {
		return attachment("a", maps("8080:80", "192.0.2.1@8080:81", "8081:81"), addresses(strings.Fields(dual)...), options(hostport.Options{
			SNAT: true, MarkMasqBit: 13,
			ConditionsV4: []string{"!", "-d", "192.0.2.0/24", "-s", "198.51.100.1,198.51.100.2", "-m", "conntrack", "--ctstate", "NEW"},
			ConditionsV6: []string{"!", "-d", "fc00::/7"},
		}))
	},
}

func eachSample(t *testing.T, test func(t *testing.T, w *world, a *hostport.Attachment)) {
	eachVariant(t, func(t *testing.T, w *world) {
		for name, sample := range samples {
			t.Run(name, func(t *testing.T) { test(t, newWorld(t, w.variant), sample()) })
		}
	})
}

func TestAddThenDeleteLeavesNothing(t *testing.T) {
	eachSample(t, func(t *testing.T, w *world, a *hostport.Attachment) {
		w.run(kubeProxy, "iptables-restore", "--noflush")
		before := w.both()
		n := &node{b: w.b}
		n.add(t, a)
		if w.both() == before {
			t.Error("ADD changed nothing")
		}
		done := w.steady()
		n.del(t, a)
		done()
		if diff := cmp.Diff(before, w.both()); diff != "" {
			t.Errorf("rules after ADD and DEL (-before +after):\n%s", diff)
		}
	})
}

// TestChangesOfOthersLeaveNoTrace: the same ADD again, and another pod that comes
// and goes, leave the rules equal byte by byte. No rule is not about a port.
func TestChangesOfOthersLeaveNoTrace(t *testing.T) {
	eachSample(t, func(t *testing.T, w *world, a *hostport.Attachment) {
		n := &node{b: w.b}
		n.add(t, attachment("b", maps("8089:80"), addresses("10.244.0.41/24")), a)
		before := w.both()
		done := w.steady()
		again := *a
		n.apply(t, []*hostport.Attachment{a}, []*hostport.Attachment{&again})
		c := attachment("c", maps("8090:80", "9090:80/udp"), addresses("10.244.0.43/24", "fd00:10:244::2b/64"), localnet)
		n.add(t, c)
		n.del(t, c)
		done()
		if diff := cmp.Diff(before, w.both()); diff != "" {
			t.Errorf("-before +after:\n%s", diff)
		}
		if n.resyncs > 0 {
			t.Errorf("%d changes failed at first", n.resyncs)
		}
		n.agrees(t)
	})
}

// TestAddAgainWithOtherMappings replaces the rules of the ports that differ, so
// that those of one port stay in order.
func TestAddAgainWithOtherMappings(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.run(kubeProxy, "iptables-restore", "--noflush")
		for _, o := range []hostport.Options{
			{SNAT: true, MarkMasqBit: 13},
			{SNAT: true, MarkMasqBit: 13, ConditionsV4: []string{"-s", "192.0.2.0/24,198.51.100.0/24"}},
			{SNAT: true, ExternalSetMarkChain: "KUBE-MARK-MASQ"},
		} {
			n := &node{b: w.b, atts: []*hostport.Attachment{attachment("a", maps("8080:80", "53:53/udp"), options(o))}}
			n.rewrite(t)
			for _, ms := range [][]string{
				{"8080:99", "53:53/udp"},
				{"192.0.2.1@8080:98", "8080:99"},
				{"192.0.2.1@8080:98", "8082:82"},
			} {
				done := w.steady()
				n.apply(t, n.atts, []*hostport.Attachment{attachment("a", maps(ms...), options(o))})
				done()
				if got := n.differences(t, n.atts...); got != "" {
					t.Errorf("%+v: %q: %s", o, ms, got)
				}
			}
			n.del(t, n.atts...)
		}
	})
}

const kubeProxy = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/kubernetes:https" -m tcp --dport 443 -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
COMMIT
`
