package iptables

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

func TestCheckAcceptsWhatApplyAndSyncMake(t *testing.T) {
	eachSample(t, func(t *testing.T, w *world, a *hostport.Attachment) {
		w.run(kubeProxy, "iptables-restore", "--noflush")
		n := &node{b: w.b}
		n.add(t, a)
		if err := w.b.Check(t.Context(), n.atts); err != nil {
			t.Errorf("after Apply: %v", err)
		}
		if err := w.b.Sync(t.Context(), n.atts); err != nil {
			t.Fatal(err)
		}
		if err := w.b.Check(t.Context(), n.atts); err != nil {
			t.Errorf("after Sync: %v", err)
		}
		n.del(t, a)
		if err := w.b.Check(t.Context(), []*hostport.Attachment{a}); err == nil {
			t.Error("after DEL: no difference found")
		}
	})
}

// TestCheckNamesEachLoss takes away or doubles one rule at a time, and expects
// Check to tell, and in the end Sync to heal.
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
					w.run(strings.Join(damage, "\n")+"\n", restoreTool(f))
					if err := w.b.Check(t.Context(), n.atts); err == nil {
						t.Errorf("%s: %d of the rules %q: no difference found", f, count(damage, line), line)
					}
				}
				if i%4 > 0 { // healing all takes long and shows no more
					continue
				}
				if err := w.b.Sync(t.Context(), n.atts); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(chainsOf(t, want), w.chains(f)); diff != "" {
					t.Errorf("%s: after Sync of twice %q (-want +got):\n%s", f, line, diff)
				}
			}
			w.run(want+"\n", restoreTool(f))
		}
	})
}

func TestRecoverReadsBackWhatApplyMade(t *testing.T) {
	eachSample(t, func(t *testing.T, w *world, a *hostport.Attachment) {
		b := attachment("b", maps("1:1"), addresses("10.244.0.41/24"))
		b.IfName = "net1"
		n := &node{b: w.b}
		n.add(t, a, b)
		got, err := w.b.Recover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// What rules cannot show does not matter for making them again.
		before := w.both()
		a.LocalnetVia, b.LocalnetVia = "", ""
		want := (&node{b: w.b, atts: []*hostport.Attachment{a, b}})
		if err := w.b.Sync(t.Context(), want.atts); err != nil {
			t.Fatal(err)
		}
		expected := w.both()
		if err := w.b.Sync(t.Context(), got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(sortLines(expected), sortLines(w.both())); diff != "" {
			t.Errorf("rules of what was recovered (-want +got):\n%s\nfrom\n%s", diff, before)
		}
		i := slices.IndexFunc(got, func(x *hostport.Attachment) bool { return x.Key == a.Key })
		if i < 0 || len(got) != 2 {
			t.Fatalf("recovered %d attachments", len(got))
		}
		if diff := cmp.Diff(a.Pod, got[i].Pod); diff != "" {
			t.Error(diff)
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

func TestStatus(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.stub("iptables-save", "exit 1") // is not asked
		if _, err := w.b.Status(t.Context()); err != nil {
			t.Error(err)
		}
		w.unstub("iptables-save")
		if got := w.both(); strings.TrimSpace(got) != "" {
			t.Errorf("Status left:\n%s", got)
		}
		w.stub("iptables-restore", "echo no such table >&2; exit 3")
		if _, err := w.b.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "IPv4: iptables-restore: exit status 3: no such table") {
			t.Errorf("error %v", err)
		}
	})
}

func TestMixedVariants(t *testing.T) {
	dir := t.TempDir()
	for _, variant := range variants {
		program := filepath.Join(dir, "xtables-"+variant+"-multi")
		if err := os.WriteFile(program, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		tool := filepath.Join(dir, "restore-of-"+variant[:1])
		if err := os.Symlink(program, tool); err != nil {
			t.Fatal(err)
		}
		for names, loaded := range map[string]bool{"": false, "filter\n": false, "filter\nnat\n": true} {
			if got, want := mixed(tool, []byte(names)), loaded && variant == "nft"; got != want {
				t.Errorf("%s beside tables %q: %v, want %v", variant, names, got, want)
			}
		}
	}
}

// TestTableThatIsNotListed: rules of nft in table nat hide it from the tools.
func TestTableThatIsNotListed(t *testing.T) {
	for remark, want := range map[string]string{
		"# Table `nat' is incompatible, use 'nft' tool.":                                   "only nft can show",
		"# Table `filter' is incompatible, use 'nft' tool.":                                "",
		"# Table `nat' contains incompatible base-chains, use 'nft' tool to list them.":    "",
		"# Warning: iptables-legacy tables present, use iptables-legacy-save to see them.": "",
	} {
		_, err := parseSave(remark + "\n*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n")
		refused(t, err, want)
	}
}
