package explain

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/netns"
)

// TestDoctorIptables checks doctor's results for the tools of iptables.
func TestDoctorIptables(t *testing.T) {
	pods, errDamaged := []*hostport.Attachment{{Backend: backend.Iptables}}, errors.New("damaged")
	for name, c := range map[string]struct {
		says, variant string
		missing       string
		pods          []*hostport.Attachment
		unread        error
		mark          Mark
		text          string
	}{
		"nf_tables":             {says: "iptables v1.8.11 (nf_tables)", variant: originIPTNFT, mark: MarkOK, text: "iptables v1.8.11 (nf_tables)"},
		"legacy":                {says: "iptables v1.8.7 (legacy)", variant: originLegacy, mark: MarkOK, text: "iptables v1.8.7 (legacy)"},
		"later":                 {says: "iptables v1.10.0", mark: MarkOK, text: "iptables v1.10.0"},
		"old":                   {says: "iptables v1.8.6 (nf_tables)", variant: originIPTNFT, mark: MarkWarn, text: "iptables v1.8.6 (nf_tables) is older than 1.8.7"},
		"very old":              {says: "iptables v1.6.1", mark: MarkWarn, text: "iptables v1.6.1 is older than 1.8.7"},
		"something else":        {says: "something else", mark: MarkWarn, text: "the version of iptables is not known: failed to extract"},
		"without its -restore":  {says: "iptables v1.8.11", missing: "iptables-restore", mark: MarkWarn, text: "only the nftables backend can be used: iptables is not installed: iptables-restore not found on PATH"},
		"without the tool":      {missing: "iptables", mark: MarkWarn, text: "the version of iptables is not known: iptables is not installed"},
		"missing, and in use":   {missing: "iptables-save", pods: pods, mark: MarkFail, text: "iptables-save not found on PATH"},
		"missing, records too":  {missing: "iptables-save", unread: errDamaged, mark: MarkFail, text: "and there may be pods on the other: iptables is not installed"},
		"without IPv6":          {says: "iptables v1.8.11", missing: "ip6tables-save", mark: MarkWarn, text: "ip6tables-save is not on the PATH: the iptables backend cannot serve IPv6"},
		"without an answer":     {says: "$(exec /bin/sleep 5)", mark: MarkWarn, text: "the version of iptables is not known: iptables: killed: "},
		"somebody else's error": {says: "no such thing >&2; exit 3", mark: MarkWarn, text: "the version of iptables is not known: iptables: exit status 3: no such thing"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("PATH", dir)
			for _, tool := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"} {
				if tool == c.missing {
					continue
				}
				says := c.says
				if !strings.HasPrefix(says, "$") {
					says = strings.NewReplacer("(", `\(`, ")", `\)`).Replace(says)
				}
				if err := os.WriteFile(filepath.Join(dir, tool), []byte("#!/bin/sh\necho "+says+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			d := &doctor{s: &Snapshot{variant: c.variant}, Records: Records{Attachments: c.pods, Unread: c.unread}}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			d.iptables(ctx)
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("took %s", took)
			}
			if got := d.checks[0]; got.Mark != c.mark || !strings.Contains(got.Text, c.text) {
				t.Errorf("%v %q, want %v %q", got.Mark, got.Text, c.mark, c.text)
			}
		})
	}
}

// TestHungTool wants a tool that hangs to be waited for only once.
func TestHungTool(t *testing.T) {
	netns.Enter(t)
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	started := filepath.Join(dir, "started")
	for _, f := range []string{"iptables", "ip6tables"} {
		for _, tool := range []string{f + "-save", f + "-nft-save"} {
			text := "#!/bin/sh\necho " + tool + " >>" + started + "\nexec /bin/sleep 60\n"
			if err := os.WriteFile(filepath.Join(dir, tool), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	c, err := NewCollector()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.patience = time.Second
	s := c.newSnapshot()
	c.readRules(t.Context(), s, hostport.Families()...)
	for _, f := range []string{"iptables", "ip6tables"} {
		if want := "The rules of " + f + " could not be listed: " + f + "-save: killed: no answer in 1s"; !strings.Contains(strings.Join(s.Unread, " "), want) {
			t.Errorf("unread: %q, want %q", s.Unread, want)
		}
	}
	text, err := os.ReadFile(started)
	lines := slices.Sorted(strings.Lines(string(text)))
	if diff := cmp.Diff([]string{"ip6tables-save\n", "iptables-save\n"}, lines); diff != "" || err != nil {
		t.Errorf("started (-want +got): %v\n%s", err, diff)
	}
}

// TestDoctorWithoutRecords wants doctor not to conclude from missing records
// that there are no pods.
func TestDoctorWithoutRecords(t *testing.T) {
	for name, c := range map[string]struct {
		Records
		forwarding Mark
		text       string
		forward    bool // whether that is checked
	}{
		"none":   {Records{}, MarkWarn, "no pod has a host port in it now", true},
		"unread": {Records{Unread: errors.New("damaged")}, MarkWarn, "no packet from outside gets to a pod that has a host port in it, if there is one", false},
	} {
		d := &doctor{s: &Snapshot{}, Records: c.Records}
		d.forwarding()
		if got := d.checks[0]; got.Mark != c.forwarding || !strings.Contains(got.Text, c.text) {
			t.Errorf("%s: %v %q, want %v %q", name, got.Mark, got.Text, c.forwarding, c.text)
		}
		d.checks = nil
		if d.policies(); len(d.checks) > 0 != c.forward {
			t.Errorf("%s: forward: %+v", name, d.checks)
		}
	}
}
