package explain

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// manyServices returns the rules of a node with 5,000 Services, in kube-proxy's
// iptables mode.
func manyServices() string {
	var chains, services, rules strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&chains, ":KUBE-SVC-%d - [0:0]\n:KUBE-SEP-%d - [0:0]\n", i, i)
		fmt.Fprintf(&services, "[0:0] -A KUBE-SERVICES -d 10.96.%d.%d/32 -p tcp -m comment --comment \"default/svc-%d cluster IP\" -m tcp --dport 80 -j KUBE-SVC-%d\n",
			i>>8, i&255, i, i)
		fmt.Fprintf(&rules, "[0:0] -A KUBE-SVC-%d -j KUBE-SEP-%d\n[0:0] -A KUBE-SEP-%d -p tcp -m tcp -j DNAT --to-destination 10.200.0.1:8080\n", i, i, i)
	}
	return strings.Replace(ours, "-A PREROUTING", ":KUBE-SERVICES - [0:0]\n"+chains.String()+"-A PREROUTING -j KUBE-SERVICES\n"+
		services.String()+rules.String()+"-A PREROUTING", 1)
}

func BenchmarkExplain(b *testing.B) {
	c := newScene()
	c.rules = manyServices()
	b.Run("parse", func(b *testing.B) {
		for b.Loop() {
			parseSave(originIPTNFT, hostport.IPv4, c.rules)
		}
	})
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			if r := c.report(); r.Code != CodeOK {
				b.Fatal(r.Sentence)
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		c.s.rules = parseSave(originIPTNFT, hostport.IPv4, c.rules)
		for b.Loop() {
			if r := Explain(&c.q, &c.s, c.all); r.Code != CodeOK {
				b.Fatal(r.Sentence)
			}
		}
	})
	// One of the mappings that list checks.
	b.Run("service", func(b *testing.B) {
		s := &Services{s: &c.s}
		for b.Loop() {
			s.known = map[place]order{}
			s.first(hostport.TCP, netip.MustParseAddrPort("192.0.2.1:8080"), "up0")
		}
	})
}
