package nftables

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// layout1 loads what layout 1 wrote, and returns whose it is.
func layout1(t *testing.T, w *world) []*hostport.Attachment {
	t.Helper()
	text, err := os.ReadFile("testdata/layout1.nft")
	if err != nil {
		t.Fatal(err)
	}
	w.load(string(text))
	return []*hostport.Attachment{
		pod(1),
		pod(2, mapped("192.0.2.1@53:53/udp", "80:8080/tcp")),
		pod(3, addressed("10.200.33.7/21")),
		pod(4, options(func(o *hostport.Options) {
			o.ConditionsV4, o.ConditionsV6 = []string{"ip saddr 10.0.0.0/8"}, []string{"iifname eth0"}
		})),
	}
}

func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	all := layout1(t, w)
	b := new(Backend)
	got, err := b.Owners(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var want []*hostport.Attachment
	for _, a := range all {
		r := readable(a)
		r.Boot = "" // its tags did not tell
		want = append(want, r)
	}
	mappings := cmpopts.SortSlices(func(x, y hostport.Mapping) bool { return x.String() < y.String() })
	if diff := cmp.Diff(want, got, mappings, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}

	// A change for what is on record finds other rules.
	n := &node{t: t, backend: b, held: all}
	n.add(pod(5))
	if n.resyncs != 1 {
		t.Errorf("%d resyncs, want 1", n.resyncs)
	}
	n.wantClean()
	n.del(n.held...)
	if got := w.ruleset(); got != "" {
		t.Errorf("left behind:\n%s", got)
	}

	// One for a node without records does not touch them.
	layout1(t, w)
	before := w.ruleset()
	n = &node{t: t, backend: b}
	c, _ := n.change(nil, []*hostport.Attachment{pod(5)})
	if _, err := b.Apply(t.Context(), c); !errors.Is(err, backend.ErrDrift) {
		t.Errorf("Apply = %v, want drift", err)
	}
	if diff := cmp.Diff(before, w.ruleset()); diff != "" {
		t.Errorf("ruleset (-before +after):\n%s", diff)
	}
}

// Packets that are evaluated while another layout is written follow the earlier rules to
// their end: what these use is deleted only afterwards, whenever the rewrite ends.
func TestUpgradeInTwoTransactions(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.held = layout1(t, w)
	before, err := n.backend.read(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	d := difference(before, contents(nil, n.held)).first()
	if _, err := n.backend.commit(t.Context(), d.write, 0, true); err != nil {
		t.Fatalf("first transaction: %v", err)
	}
	after, err := n.backend.read(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range before {
		if !slices.ContainsFunc(after, func(a object) bool { return a.id() == o.id() }) {
			t.Errorf("%s is gone already", o)
		}
	}
	rest := difference(after, contents(nil, n.held))
	if len(rest.come) > 0 || len(only[set](rest.gone)) == 0 || len(only[chain](rest.gone)) == 0 {
		t.Errorf("%d objects are left to write, and %d to delete", len(rest.come), len(rest.gone))
	}
	n.rewrite() // as after a kill
	n.wantClean()
	upgraded := w.unordered()
	w.nft("flush ruleset")
	n.rewritesTo(w, upgraded)
}

// The boot is told by the comments.
func TestOwnersOfAnotherBoot(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	old := pod(1, func(a *hostport.Attachment) { a.Boot = hostport.BootHash("an earlier boot") })
	n.add(old, pod(2))
	saved := w.nft("list table inet hostport")
	w.nft("flush ruleset")
	w.load(saved)
	got, err := n.backend.Owners(t.Context())
	if err != nil || len(got) != 2 {
		t.Fatalf("Owners = %v, %v", got, err)
	}
	for i, want := range []*hostport.Attachment{old, pod(2)} {
		if got[i].Key != want.Key || got[i].Boot != want.Boot || got[i].Sandbox.Inode != want.Sandbox.Inode {
			t.Errorf("owner %+v, want key, boot and inode of %+v", got[i], want)
		}
	}
}
