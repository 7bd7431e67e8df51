package nftables

import (
	"strings"
	"testing"
)

func TestStatusLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.load(foreign)
	before := w.ruleset()
	advice, err := new(Backend).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(advice) != 0 {
		t.Errorf("advice on a plain node: %q", advice)
	}
	if after := w.ruleset(); after != before {
		t.Errorf("ruleset changed:\n%s", after)
	}
	// The whole answers at once; each for itself must be right as well.
	for _, f := range features() {
		if err := new(Backend).probe(t.Context(), f); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
	}
	if after := w.ruleset(); after != before {
		t.Errorf("ruleset changed:\n%s", after)
	}
}

func TestStatusAdvisesUnderIPVS(t *testing.T) {
	w := newWorld(t)
	w.run("ip", "link", "add", "kube-ipvs0", "type", "bridge")
	advice, err := new(Backend).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(advice) != 1 || !strings.Contains(advice[0], "conditionsV4") {
		t.Errorf("advice = %q", advice)
	}
}
