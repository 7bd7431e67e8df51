package explain

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// TestSamePriority has two nat chains of one priority. The kernel does not show
// which of them runs first, so Explain may only report what is true in either
// order.
func TestSamePriority(t *testing.T) {
	const docker = "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n-A PREROUTING -j DOCKER\n" +
		"-A DOCKER -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\nCOMMIT\n"
	for _, tt := range []explained{
		{
			"both take the packet", CodeNotVisible, 2, "hostport and kube-proxy each have a rule for it",
			func(c *scene) { c.legacy = service("8080") },
		},
		{"ours alone takes it", CodeOK, 0, "reaches", func(c *scene) { c.legacy = service("8081") }},
		{
			"the other alone takes it", CodeServiceFirst, 1, "kube-proxy leads it to 10.244.0.9:80",
			func(c *scene) { c.rules, c.legacy = "", service("8080") },
		},
		{"both take it to the same pod", CodeOK, 0, "reaches", func(c *scene) {
			c.legacy = strings.NewReplacer("DOCKER", "CNI-HOSTPORT-DNAT", "172.17.0.2", "10.244.0.40").Replace(docker)
		}},
		{
			"both take it, a Service to the same pod at random", CodeNotVisible, 2, "hostport and kube-proxy each have a rule for it",
			func(c *scene) { c.legacy = strings.Replace(service("8080"), "10.244.0.9", "10.244.0.40", 1) },
		},
		{
			"two others take it", CodeOtherMappingFirst, 1, "table nat leads it to 172.17.0.2:80, or a rule in chain KUBE-SERVICES",
			func(c *scene) { c.rules, c.legacy = service("8080"), docker },
		},
		{
			"two others take it, and nothing is recorded", CodeNoMapping, 1, "table nat leads it to 172.17.0.2:80, or a rule in chain KUBE-SERVICES",
			func(c *scene) { c.rules, c.legacy, c.all = service("8080"), docker, nil },
		},
		{
			"the other drops it", CodeNotVisible, 2, "hostport and another program each have a rule for it",
			func(c *scene) {
				c.legacy = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 8080 -j DROP\nCOMMIT\n"
			},
		},
		{
			"both take it, and ours would lead nowhere", CodeForwardDropped, 1, "does not reach",
			func(c *scene) {
				c.rules, c.legacy = c.rules+filter(":FORWARD DROP [0:0]\n"), service("8080")
			},
		},
		{
			"the same source from both", CodeOK, 0, "reaches", func(c *scene) {
				c.rules = strings.Replace(ours, "COMMIT", "-A POSTROUTING -j MASQUERADE\nCOMMIT", 1)
				c.legacy = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j SNAT --to-source 10.244.0.1\nCOMMIT\n"
			},
		},
		{
			"another source from each", CodeNotVisible, 2, "see the stages", func(c *scene) {
				c.rules = strings.Replace(ours, "COMMIT", "-A POSTROUTING -j MASQUERADE\nCOMMIT", 1)
				c.legacy = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j SNAT --to-source 192.0.2.1\nCOMMIT\n"
			},
		},
	} {
		tt.run(t)
	}
}

// TestSamePriorityObserved lets a probe decide.
func TestSamePriorityObserved(t *testing.T) {
	for _, tt := range []struct {
		target  string
		reached bool
		code    Code
		exit    int
	}{
		{"10.244.0.40:80", true, CodeOK, 0},
		{"10.244.0.8:80", false, CodeServiceFirst, 1}, // another endpoint than the one that was predicted
		{"10.244.0.40:80", false, CodeNotVisible, 2},
		{"", false, CodeNotVisible, 2},
	} {
		c := newScene()
		c.legacy = service("8080")
		r := c.report()
		r.Compare(&Observation{Predicted: CannotTell, Code: CodeNotVisible, Target: tt.target, Reached: tt.reached})
		if r.Code != tt.code || r.Exit() != tt.exit || r.Predicted != CannotTell {
			t.Errorf("led to %q: code %q, exit status %d, predicted %q, want %q and %d: %s", tt.target, r.Code, r.Exit(), r.Predicted, tt.code, tt.exit, r.Sentence)
		}
	}
}

// TestServicesSamePriority wants list to say "service first" only if that is
// certain.
func TestServicesSamePriority(t *testing.T) {
	for _, tt := range []struct {
		name          string
		rules, legacy string
		first, known  bool
	}{
		{"ours alone", ours, "", false, true},
		{"both", ours, service("8080"), false, false},
		{"a Service alone", "", service("8080"), true, true},
		{"a Service of another port", ours, service("8081"), false, true},
		{"two Services", service("8080"), strings.Replace(service("8080"), "0.9", "0.8", 1), true, true},
	} {
		c := newScene()
		c.rules, c.legacy = tt.rules, tt.legacy
		c.report()
		s := &Services{s: &c.s, known: map[place]order{}, addresses: map[hostport.Family][]local{
			hostport.IPv4: {{netip.MustParseAddr("192.0.2.1"), "up0"}},
		}}
		for range 2 { // the second time from the cache
			if first, known := s.First(c.all[0].Attachment, c.all[0].Mappings[0]); first != tt.first || known != tt.known {
				t.Errorf("%s: first %v, known %v, want %v and %v", tt.name, first, known, tt.first, tt.known)
			}
		}
	}
}
