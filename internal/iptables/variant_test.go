package iptables

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func otherVariant(v string) string {
	if v == "nft" {
		return "legacy"
	}
	return "nft"
}

// TestVariantChanges: with living pods, iptables leads to the other variant. The
// next change brings their rules there, and leaves none behind.
func TestVariantChanges(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		for _, v := range variants {
			w.installVariant(v)
		}
		n := &node{b: w.b}
		a := everything()
		n.add(t, a)
		old := w.variant
		w.use(otherVariant(old))
		owners, err := w.b.Owners(t.Context())
		if err != nil || len(owners) != 1 || owners[0].Key != a.Key || len(owners[0].Addresses) != 2 {
			t.Errorf("owners %+v, error %v", owners, err)
		}
		counted, err := w.b.Connections(t.Context())
		if err != nil || len(counted) != len(a.Forwards(hostport.IPv4))+len(a.Forwards(hostport.IPv6)) {
			t.Errorf("connections %v, error %v", counted, err)
		}
		if got := n.audit(t); !strings.Contains(got, "a: IPv4: iptables-"+old+": ") {
			t.Errorf("Audit: %s", got)
		}
		b := attachment("b", maps("8081:80"), addresses("10.244.0.41/24"))
		n.add(t, b)
		if n.resyncs != 1 {
			t.Errorf("%d changes failed at first", n.resyncs)
		}
		n.agrees(t)
		for _, f := range hostport.Families() {
			if left := w.run("", command(f)+"-"+old+"-save"); strings.Contains(left, prefix) {
				t.Errorf("left in the %s variant:\n%s", old, left)
			}
		}
		n.del(t, a, b)
		if left := w.both(); strings.Contains(left, prefix) {
			t.Errorf("left:\n%s", left)
		}
	})
}

// TestRulesInBothVariants: an administrator copied them. That another program holds the
// xtables lock says nothing about the tools.
func TestRulesInBothVariants(t *testing.T) {
	w := newWorld(t, "nft")
	for _, v := range variants {
		w.installVariant(v)
	}
	(&node{b: w.b}).add(t, attachment("a", maps("8080:80")))
	wants := func(want error) {
		t.Helper()
		if err := w.b.oneVariant(t.Context(), hostport.IPv4); !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
	}
	wants(nil)
	w.run(w.saved(hostport.IPv4)+"\n", "iptables-legacy-restore")
	wants(backend.ErrDrift)
	timer := time.AfterFunc(1200*time.Millisecond, holdXtablesLock(t))
	defer timer.Stop()
	wants(backend.ErrDrift)
	w.b.Wait = time.Second
	unlock := holdXtablesLock(t)
	wants(backend.ErrBusy)
	unlock()
	w.stub("iptables-legacy-restore", "exit 1")
	wants(nil)
}

// TestVariantWithoutTools: what cannot be removed is told once.
func TestVariantWithoutTools(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		var log strings.Builder
		w.b.Log = slog.New(slog.NewTextHandler(&log, nil))
		n := &node{b: w.b}
		a := attachment("a", maps("8080:80"))
		n.add(t, a)
		old := w.variant
		w.use(otherVariant(old))
		_, err := w.b.Owners(t.Context())
		wantRefused(t, err, "")
		_, err = w.b.Audit(t.Context(), nil, hostport.Fingerprint{})
		wantRefused(t, err, "iptables-"+old+"-save not found on PATH")
		n.rewrite(t)
		if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "iptables-"+old) {
			t.Errorf("warnings:\n%s", got)
		}
		if got := n.differences(t, a); got != "" {
			t.Errorf("Check: %s", got)
		}
	})
}

// TestPartlyReadable: what one family says is kept when the other cannot be read.
func TestPartlyReadable(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		n := &node{b: w.b}
		n.add(t, everything())
		w.stub("ip6tables-save", "echo broken >&2; exit 1")
		w.stub("ip6tables-restore", `[ "$1" = --version ] || { echo broken >&2; exit 1; }
`+w.real("ip6tables-"+w.variant+"-restore"))
		got, err := w.b.Owners(t.Context())
		wantRefused(t, err, "IPv6: ip6tables-save: exit status 1: broken")
		if len(got) != 1 || len(got[0].Mappings) != 3 {
			t.Errorf("owners %+v", got)
		}
		if _, _, err := w.b.Rewrite(t.Context(), nil, hostport.Fingerprint{}); err == nil || !strings.Contains(err.Error(), "IPv6") {
			t.Errorf("Rewrite: %v", err)
		}
		if left := w.saved(hostport.IPv4); strings.Contains(left, prefix) {
			t.Errorf("left:\n%s", left)
		}
	})
}

// TestOtherTablesDoNotMatter: rules of other programs that the tool cannot list
// are in a table that it is not asked for.
func TestOtherTablesDoNotMatter(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		tool := strings.TrimPrefix(w.real("iptables-"+w.variant+"-save"), "exec ")
		w.stub("iptables-save", `[ "$1" = -t ] && [ "$2" = nat -o "$2" = raw ] || { echo "filter is broken" >&2; exit 1; }
`+tool)
		n := &node{b: w.b}
		n.add(t, everything())
		n.rewrite(t)
		n.agrees(t)
		if got, err := w.b.Owners(t.Context()); err != nil || len(got) != 1 {
			t.Errorf("%d owners, error %v", len(got), err)
		}
	})
}

// TestNoProcessWithoutRules: a node without rules of ours is asked over netlink.
func TestNoProcessWithoutRules(t *testing.T) {
	w := newWorld(t, "nft")
	for _, name := range []string{"iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"} {
		w.stub(name, "exit 1")
	}
	if got, err := w.b.Owners(t.Context()); err != nil || len(got) > 0 {
		t.Errorf("%d owners, error %v", len(got), err)
	}
	rewrite(t, w.b, nil)
	if got := (&node{b: w.b}).audit(t); got != "" {
		t.Errorf("Audit: %s", got)
	}
}

// TestAuditFindsWhatNobodyOwns adds rules and chains to ours.
func TestAuditFindsWhatNobodyOwns(t *testing.T) {
	for text, want := range map[string]string{
		`-A CNI-HP-TCP-1F9 -p tcp -m tcp --dport 8083 -m comment --comment "dead eth0 7@1a2b3c4d net ns/p" -j DNAT --to-destination 10.244.0.9:80`: "dead: IPv4: in chain CNI-HP-TCP-1F9 of table nat a rule belongs to no attachment",
		"-N CNI-HP-TCP-2\n-A CNI-HP-DNAT -p tcp -m tcp --dport 8192:12287 -j CNI-HP-TCP-2":                                                         "chain CNI-HP-TCP-2 of table nat belongs to no attachment",
		"-A POSTROUTING -p tcp -j CNI-HP-MASQ": "in chain POSTROUTING of table nat a rule belongs to no attachment",
		"-A CNI-HP-MASQ-13 -j ACCEPT":          "rule 3 of chain CNI-HP-MASQ-13 differs",
	} {
		w := newWorld(t, "nft")
		n := &node{b: w.b}
		n.add(t, attachment("a", maps("8080:80")))
		w.run("*nat\n"+text+"\nCOMMIT\n", "iptables-restore", "--noflush")
		if got := n.audit(t); !strings.Contains(got, want) {
			t.Errorf("%s: Audit: %q, want %q", text, got, want)
		}
		n.rewrite(t)
		n.agrees(t)
		n.atts = nil
		if got := n.audit(t); strings.Count(got, "belongs to no attachment") < 10 || !strings.Contains(got, "a: IPv4: ") {
			t.Errorf("Audit without records: %s", got)
		}
	}
}
