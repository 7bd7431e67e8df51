package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/test/world"
)

// limit is within which rules are right again. The machine may be busy with other
// tests: it is longer than what is promised.
func limit(b world.Backend) time.Duration {
	if b == world.IptablesLegacy {
		return 8 * time.Second
	}
	return 3 * time.Second
}

// damage is what other programs do to rules.
type damage struct {
	name string
	do   func(n *node)
	only []world.Backend
}

func TestHeal(t *testing.T) {
	for _, b := range world.Backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			n, net := newNode(t, b, "hostport")
			n.start()
			n.awaitReady()
			n.web(net, "web", 8080)
			n.web(net, "other", 8081)
			want := n.w.Ruleset()
			n.w.Iptables(world.V4, "-t", "nat", "-F")
			if b == world.NFTables {
				n.w.Node.Command("nft", "flush", "ruleset")
			}
			took := n.outage(world.V4, 8080, limit(b))
			t.Logf("healed in %v", took)
			n.reaches(8080, "web")
			n.reaches(8081, "other")
			if got := n.w.Ruleset(); got.Sorted() != want.Sorted() {
				t.Errorf("other rules than before")
			}
			if got := n.log.find("rules of host ports repaired"); len(got) != 1 {
				t.Errorf("repairs: %v", got)
			}
			_, text := n.get("/metrics")
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, "hostport") {
					t.Log(strings.TrimSpace(line))
				}
			}
			t.Log(n.log)
		})
	}
}
