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
		w.stub("iptables-save", "exit 1") // the steady path does not read
		w.stub("ip6tables-save", "exit 1")
		n.del(t, a)
		w.unstub("iptables-save")
		w.unstub("ip6tables-save")
		if diff := cmp.Diff(before, w.both()); diff != "" {
			t.Errorf("rules after ADD and DEL (-before +after):\n%s", diff)
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
