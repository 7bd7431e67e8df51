package nftables

import (
	"testing"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/backend/conformance"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, func(t *testing.T) conformance.Harness {
		w := newWorld(t)
		return conformance.Harness{
			Name:    backend.Nftables,
			Backend: new(Backend),
			Ruleset: w.ruleset,
			Save: func() (restore func()) {
				saved := w.nft("list ruleset")
				return func() { w.load("flush ruleset\n" + saved) }
			},
			ConditionsV4: []string{"ip saddr 192.0.2.0/24"},
			ConditionsV6: []string{"ip6 saddr 2001:db8::/64"},
		}
	})
}
