package iptables

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// TestLayout1 reads and replaces the rules that two commits left, which had no
// fingerprint. The files are what they fed to iptables-restore.
func TestLayout1(t *testing.T) {
	for _, commit := range []string{"c97ecc5", "bada6ac"} {
		for _, sample := range []string{"conditions", "localnet", "dual-stack", "host-IPs"} {
			t.Run(commit+"/"+sample, func(t *testing.T) {
				eachVariant(t, func(t *testing.T, w *world) {
					w.run(kubeProxy, "iptables-restore", "--noflush")
					before := w.both()
					for _, f := range hostport.Families() {
						text, err := os.ReadFile(filepath.Join("testdata", "layout1", commit+"-"+sample+"-"+f.String()+".rules"))
						if err != nil && f == hostport.IPv4 {
							t.Fatal(err)
						}
						w.run(string(text), command(f)+"-restore", "--noflush")
					}
					want := samples[strings.ReplaceAll(sample, "-", " ")]()
					got, err := w.b.Owners(t.Context())
					if err != nil || len(got) != 1 {
						t.Fatalf("%d owners, error %v", len(got), err)
					}
					if got[0].Boot != "" {
						t.Errorf("boot %q", got[0].Boot)
					}
					if len(want.Options.ConditionsV4) != len(got[0].Options.ConditionsV4) {
						t.Errorf("conditions %q", got[0].Options.ConditionsV4)
					}
					for _, f := range hostport.Families() {
						if diff := cmp.Diff(want.Forwards(f), got[0].Forwards(f), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); diff != "" {
							t.Errorf("%s: what the owner maps (-want +got):\n%s", f, diff)
						}
					}
					n := &node{b: w.b, atts: []*hostport.Attachment{want}}
					if n.differences(t, want) == "" {
						t.Error("Check sees no difference")
					}
					n.add(t, attachment("c", maps("8083:80"))) // drift, then
					n.agrees(t)
					if n.resyncs != 1 {
						t.Errorf("%d changes failed at first", n.resyncs)
					}
					n.del(t, n.atts...)
					if diff := cmp.Diff(before, w.both()); diff != "" {
						t.Errorf("left (-before +after):\n%s", diff)
					}
				})
			})
		}
	}
}
