package nftables

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

func everything() []*hostport.Attachment {
	var all []*hostport.Attachment
	for _, a := range variety() {
		all = append(all, a)
	}
	return all
}

func TestCheckFindsNothingWrong(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: w.backend()}
	n.add(everything()...)
	for _, a := range n.held {
		if err := n.backend.Check(context.Background(), []*hostport.Attachment{a}); err != nil {
			t.Errorf("%s: %v", a.Pod, err)
		}
	}
	if err := n.backend.Check(context.Background(), n.held); err != nil {
		t.Error(err)
	}
	saved := w.nft("list ruleset")
	w.nft("flush ruleset")
	w.load(saved)
	if err := n.backend.Check(context.Background(), n.held); err != nil {
		t.Errorf("after loading the listing: %v", err)
	}
}

func TestCheckNamesTheDifference(t *testing.T) {
	tests := []struct{ name, line, want string }{
		{"flushed ruleset", "flush ruleset", "table inet hostport is missing"},
		{"flushed table", "flush table inet hostport", "chain hostports has 0 rules instead of 8"},
		{"deleted chain", "delete chain inet hostport guard", "chain guard is missing"},
		{"deleted element", "delete element inet hostport v4 { tcp . 8001 }", "0.0.0.0:8001/tcp -> 10.244.0.3:80 (map v4) is missing"},
		{"deleted host IP", "delete element inet hostport v6_hostip { 2001:db8::1 . udp . 53 }", "[2001:db8::1]:53/udp -> [fd00::3]:53 (map v6_hostip) is missing"},
		{"flushed set", "flush set inet hostport client4_24", "masquerading of 10.244.0.0/24 on the way to 10.244.0.3 (set client4_24) is missing"},
		{"flushed conditions", "flush map inet hostport only4", "0.0.0.0:8001/tcp with the conditions in chain only4_"},
		{"foreign rule", "insert rule inet hostport prerouting accept", "chain prerouting has 2 rules instead of 1"},
	}
	a := pod(1, mapped("8001:80/tcp", "[2001:db8::1]:53:53/udp"), options(func(o *hostport.Options) {
		o.ConditionsV4 = []string{"ip saddr 10.0.0.0/8"}
	}))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			n := &node{t: t, backend: w.backend()}
			n.add(a, pod(2))
			w.nft(tt.line)
			wantProblem(t, n.backend, a, tt.want)
		})
	}

	replaced := []struct{ name, text, want string }{
		{
			"other pod", "delete element inet hostport v4 { tcp . 8001 }\nadd element inet hostport v4 { tcp . 8001 : 10.9.9.9 . 99 }",
			"0.0.0.0:8001/tcp -> 10.9.9.9:99 (map v4) should be 0.0.0.0:8001/tcp -> 10.244.0.3:80 (map v4)",
		},
		{
			"other owner", "delete element inet hostport v4 { tcp . 8001 }\nadd element inet hostport v4 { tcp . 8001 comment \"me\" : 10.244.0.3 . 80 }",
			`is marked as of "me" instead of "` + a.Tag(maxComment) + `"`,
		},
		{
			"one port more", "add element inet hostport v4 { tcp . 9999 comment \"" + a.Tag(maxComment) + "\" : 10.244.0.3 . 80 }",
			"0.0.0.0:9999/tcp -> 10.244.0.3:80 (map v4) should not be there",
		},
		{
			"other rule", "flush chain inet hostport unmapped\nadd rule inet hostport unmapped ct label set 1",
			"rule 1 of chain unmapped is another",
		},
		{
			"other priority", "flush chain inet hostport guard\ndelete chain inet hostport guard\nadd chain inet hostport guard { type filter hook prerouting priority 0; }",
			"chain guard is attached elsewhere than it should be",
		},
	}
	for _, tt := range replaced {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			n := &node{t: t, backend: w.backend()}
			n.add(a, pod(2))
			w.load(tt.text)
			wantProblem(t, n.backend, a, tt.want)
		})
	}
}

func wantProblem(t *testing.T, b *Backend, a *hostport.Attachment, want string) {
	t.Helper()
	err := b.Check(context.Background(), []*hostport.Attachment{a})
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Check = %v\nwant it to say %q", err, want)
	}
	if err := b.Sync(context.Background(), []*hostport.Attachment{a, pod(2)}); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(context.Background(), []*hostport.Attachment{a}); err != nil {
		t.Errorf("after Sync: %v", err)
	}
}

// Sync leaves a table alone that is right, and its counters.
func TestSyncKeepsWhatIsRight(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: w.backend()}
	n.add(everything()...)
	before := w.nft("-a list ruleset")
	if err := n.backend.Sync(context.Background(), n.held); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.nft("-a list ruleset")); diff != "" {
		t.Errorf("ruleset with handles (-before +after):\n%s", diff)
	}
	w.nft("add chain inet hostport mine")
	if err := n.backend.Sync(context.Background(), n.held); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(w.ruleset(), "mine") {
		t.Error("a foreign chain is still there")
	}
}

func TestRecover(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: w.backend()}
	conditions := pod(20, mapped("80:80/tcp", "192.0.2.1:81:81/udp"), options(func(o *hostport.Options) {
		o.ConditionsV4 = []string{"ip saddr != { 10.0.0.0/8, 192.168.0.0/16 }", `iifname "eth0" meta mark & 0xff == 3`}
		o.ConditionsV6 = []string{"ip6 daddr fd00::/8"}
	}))
	long := pod(21, func(a *hostport.Attachment) { a.Pod.Name = strings.Repeat("n", 60) })
	second := pod(22, mapped("90:90/tcp"), func(a *hostport.Attachment) { a.IfName = "net1" })
	n.add(append(everything(), conditions, long, second)...)
	w.nft("add element inet hostport v4 { tcp . 7777 : 10.9.9.9 . 99 }") // nobody's

	got, err := n.backend.Recover(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var want []*hostport.Attachment
	for _, a := range n.held {
		if len(shares(a)) > 0 {
			want = append(want, recoverable(a))
		}
	}
	byKey := cmpopts.SortSlices(func(x, y *hostport.Attachment) bool { return x.Key.String() < y.Key.String() })
	mappings := cmpopts.SortSlices(func(x, y hostport.Mapping) bool { return x.String() < y.String() })
	addr := cmp.Comparer(func(x, y netip.Addr) bool { return x == y })
	prefix := cmp.Comparer(func(x, y netip.Prefix) bool { return x == y })
	if diff := cmp.Diff(want, got, byKey, mappings, addr, prefix, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("recovered (-want +got):\n%s", diff)
	}
	if err := n.backend.Check(context.Background(), got); err != nil {
		t.Errorf("the recovered do not match the kernel: %v", err)
	}
}

// recoverable is what of an attachment is in the kernel.
func recoverable(a *hostport.Attachment) *hostport.Attachment {
	r := *a
	r.Sandbox = hostport.Sandbox{Inode: a.Sandbox.Inode}
	r.Options.MarkMasqBit = 0
	r.Addresses = nil
	for _, p := range a.Addresses {
		if !a.Options.SNAT || a.Options.MasqueradeAll {
			p = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
		}
		r.Addresses = append(r.Addresses, p)
	}
	for f, texts := range map[hostport.Family]*[]string{
		hostport.IPv4: &r.Options.ConditionsV4, hostport.IPv6: &r.Options.ConditionsV6,
	} {
		var single []string
		for _, text := range *texts {
			cs, err := parseConditions(text, f)
			if err != nil {
				panic(err)
			}
			for _, c := range cs {
				single = append(single, c.String())
			}
		}
		*texts = single
	}
	return &r
}

func TestRecoverFromNothing(t *testing.T) {
	got, err := newWorld(t).backend().Recover(context.Background())
	if err != nil || len(got) != 0 {
		t.Errorf("Recover = %v, %v", got, err)
	}
}
