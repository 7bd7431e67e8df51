package iptables

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/backend/conformance"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func TestCheckAcceptsWhatApplyAndRewriteMake(t *testing.T) {
	eachSample(t, func(t *testing.T, w *world, a *hostport.Attachment) {
		w.run(kubeProxy, "iptables-restore", "--noflush")
		n := &node{b: w.b}
		n.add(t, a)
		n.agrees(t)
		n.rewrite(t)
		n.agrees(t)
		n.del(t, a)
		n.agrees(t)
		if got := n.differences(t, a); got == "" {
			t.Error("after DEL: no difference found")
		}
	})
}

// TestCheckNamesEachLoss takes away or doubles one rule at a time, and expects
// Check to tell, and in the end Rewrite to heal.
func TestCheckNamesEachLoss(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.run(kubeProxy, "iptables-restore", "--noflush")
		n := &node{b: w.b}
		conditional := samples["conditions"]()
		conditional.ContainerID = "c"
		conditional.Mappings = nil
		maps("9090:80", "192.0.2.1@9090:81")(conditional)
		n.add(t, everything(), conditional)
		for _, f := range hostport.Families() {
			want := w.saved(f)
			lines := strings.Split(want, "\n")
			for i, line := range lines {
				if !strings.HasPrefix(line, "-A") || !strings.Contains(line, prefix) {
					continue
				}
				without := slices.Delete(slices.Clone(lines), i, i+1)
				twice := slices.Insert(slices.Clone(lines), i, line)
				for _, damage := range [][]string{without, twice} {
					c := comparisonWith(parseSave(t, strings.Join(damage, "\n")+"\n"))
					c.compare(wantRules(f, n.atts, conformance.Fingerprint(n.atts).Of(f)))
					if len(c.found) == 0 {
						t.Errorf("%s: %d lines of %d, changed at the rule %q: no difference found", f, len(damage), len(lines), line)
					}
				}
				if i%8 > 0 { // healing all takes long and shows no more
					continue
				}
				w.run(strings.Join(twice, "\n")+"\n", command(f)+"-restore")
				if n.differences(t, n.atts...) == "" {
					t.Errorf("%s: twice the rule %q: no difference found", f, line)
				}
				n.rewrite(t)
				if diff := cmp.Diff(chainsOf(t, want), w.chains(f)); diff != "" {
					t.Errorf("%s: after a rewrite of twice %q (-want +got):\n%s", f, line, diff)
				}
			}
			w.run(want+"\n", command(f)+"-restore")
		}
	})
}

// TestOwnersReadsBackWhatApplyMade: what rules cannot show does not matter for
// making them again.
func TestOwnersReadsBackWhatApplyMade(t *testing.T) {
	eachSample(t, func(t *testing.T, w *world, a *hostport.Attachment) {
		b := attachment("b", maps("1:1"), addresses("10.244.0.41/24"))
		b.IfName, b.Boot = "net1", "99999999"
		n := &node{b: w.b}
		n.add(t, a, b)
		got, err := w.b.Owners(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		before := w.both()
		a.LoopbackInterface, b.LoopbackInterface = "", ""
		n.rewrite(t)
		expected := w.both()
		if _, _, err := w.b.Rewrite(t.Context(), got, conformance.Fingerprint(n.atts)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(sortLines(expected), sortLines(w.both())); diff != "" {
			t.Errorf("rules of the owners (-want +got):\n%s\nfrom\n%s", diff, before)
		}
		i := slices.IndexFunc(got, func(x *hostport.Attachment) bool { return x.Key == a.Key })
		if i < 0 || len(got) != 2 {
			t.Fatalf("%d owners", len(got))
		}
		if diff := cmp.Diff(a.Pod, got[i].Pod); diff != "" {
			t.Error(diff)
		}
		if got[i].Boot != a.Boot || got[1-i].Boot != b.Boot || got[i].Sandbox.Inode != a.Sandbox.Inode {
			t.Errorf("boots %q and %q, inode %d", got[i].Boot, got[1-i].Boot, got[i].Sandbox.Inode)
		}
		if len(a.Clients(hostport.IPv4)) > 1 {
			if diff := cmp.Diff(fmt.Sprint(a.Addresses), fmt.Sprint(got[i].Addresses)); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		}
	})
}

func sortLines(s string) string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestTableThatIsNotListed: rules of nft in table nat hide it from the tools.
func TestTableThatIsNotListed(t *testing.T) {
	for remark, want := range map[string]string{
		"# Table `nat' is incompatible, use 'nft' tool.":                                   "only nft can show",
		"# Table `filter' is incompatible, use 'nft' tool.":                                "",
		"# Table `nat' contains incompatible base-chains, use 'nft' tool to list them.":    "",
		"# Warning: iptables-legacy tables present, use iptables-legacy-save to see them.": "",
	} {
		r := new(ruleset)
		err := r.parse(remark + "\n*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n")
		wantRefused(t, err, want)
	}
}
