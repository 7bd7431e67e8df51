package iptables

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// TestHostileNames: names are text to the real tools too, and read back as the
// owner that they were written for.
func TestHostileNames(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		before := w.both()
		n := &node{b: w.b}
		for i, s := range []string{
			`" -j ACCEPT "`, "a\nCOMMIT\n*nat\n-F", `\`, "'", "-j", "!", "#", "$(reboot)", "`reboot`", "\x1b[31m", "\xff\xfe", "\x00",
			strings.Repeat("x", 300), "é中", " ", "--comment", "%s%n",
		} {
			a := attachment(fmt.Sprintf("id%d", i), maps(fmt.Sprintf("%d:80", 8000+i)), addresses(strings.Fields(dual)...))
			a.Network, a.Pod.Namespace, a.Pod.Name = s, s, s
			n.add(t, a)
		}
		n.agrees(t)
		found, err := w.b.Owners(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(found) != len(n.atts) {
			t.Errorf("%d owners of %d", len(found), len(n.atts))
		}
		for _, a := range found {
			if len(a.Mappings) != 1 || len(a.Addresses) != 2 || !strings.HasPrefix(a.ContainerID, "id") {
				t.Errorf("owner %+v", a)
			}
		}
		n.del(t, n.atts...)
		if diff := cmp.Diff(before, w.both()); diff != "" {
			t.Errorf("-before +after:\n%s", diff)
		}
	})
}

// TestRefusedConditionsAreHarmless feeds the tool what Validate refuses, as a
// damaged record could: the change fails or does what it should, and touches
// nothing else.
func TestRefusedConditionsAreHarmless(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.run(kubeProxy, "iptables-restore", "--noflush")
		before := w.both()
		n := &node{b: w.b}
		for _, c := range [][]string{
			{"-j", "ACCEPT"},
			{"-jACCEPT"},
			{"-fjACCEPT"},
			{"--ju", "ACCEPT"},
			{"-t", "filter"},
			{"-A", "PREROUTING"},
			{"-F"},
			{"-X"},
			{"-s", "192.0.2.1\nCOMMIT"},
			{`-s "`},
			{`"`},
			{`\`},
			{""},
			{"--"},
			{"-p", "udp"},
			{"--modprobe=/bin/false"},
			{"-c", "1", "1"},
			{"!"},
			{"-m", "nosuch"},
		} {
			a := attachment("a", maps("8080:80"), options(hostport.Options{ConditionsV4: c}))
			if new(Backend).Validate(a.Options) == nil && c[0] != "-m" {
				t.Errorf("%q is accepted", c)
			}
			if _, err := w.b.Apply(t.Context(), n.change(nil, []*hostport.Attachment{a})); err == nil {
				got := w.saved(hostport.IPv4)
				if strings.Count(got, "-j "+attachmentChain(ownPrefix, a.Key)) != 1 || strings.Contains(got, "ACCEPT -") {
					t.Errorf("%q was applied as\n%s", c, got)
				}
				rewrite(t, w.b, nil)
			}
			if diff := cmp.Diff(before, w.both()); diff != "" {
				t.Fatalf("after %q (-before +after):\n%s", c, diff)
			}
		}
	})
}
