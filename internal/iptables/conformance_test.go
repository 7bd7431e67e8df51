package iptables

import (
	"testing"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/backend/conformance"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/netns"
)

func TestConformance(t *testing.T) {
	for _, variant := range variants {
		t.Run(variant, func(t *testing.T) {
			conformance.Run(t, func(t *testing.T) conformance.Harness { return harness(newWorld(t, variant)) })
		})
	}
}

func harness(w *world) conformance.Harness {
	return conformance.Harness{
		Name:    backend.Iptables,
		Backend: w.b,
		Ruleset: func() (text string) {
			for _, f := range hostport.Families() {
				text += netns.SaveText(w.run("", command(f)+"-save"))
			}
			return text
		},
		Save: func() (restore func()) {
			saved := make(map[hostport.Family]string)
			for _, f := range hostport.Families() {
				// Restoring a table flushes it, also one that was not there.
				saved[f] = "*raw\nCOMMIT\n*mangle\nCOMMIT\n*nat\nCOMMIT\n*filter\nCOMMIT\n" + w.run("", command(f)+"-save")
			}
			return func() {
				for f, text := range saved {
					w.run(text, command(f)+"-restore")
				}
			}
		},
		ConditionsV4: []string{"-s", "192.0.2.0/24"},
		ConditionsV6: []string{"-s", "2001:db8::/64"},
	}
}
