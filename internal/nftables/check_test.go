package nftables

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/backend/conformance"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func everything() []*hostport.Attachment {
	return slices.Collect(maps.Values(variety()))
}

func TestCheckFindsNothingWrong(t *testing.T) {
	newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(everything()...)
	for _, a := range n.held {
		diff, err := n.backend.Check(t.Context(), []*hostport.Attachment{a}, conformance.Fingerprint(n.held))
		if err != nil || len(diff) > 0 {
			t.Errorf("%s: %v, %v", a.Pod, diff, err)
		}
	}
	n.wantClean()
}

func TestCheckNamesTheDifference(t *testing.T) {
	tests := []struct{ name, line, want string }{
		{"flushed ruleset", "flush ruleset", "table inet hostport is missing"},
		{"flushed table", "flush table inet hostport", "chain hostports has 0 rules instead of 10"},
		{"deleted chain", "delete chain inet hostport guard", "chain guard is missing"},
		{"deleted element", "delete element inet hostport v4 { tcp . 8001 }", "0.0.0.0:8001/tcp -> 10.244.0.3:80 (map v4) is missing"},
		{"deleted host IP", "delete element inet hostport v6_hostip { 2001:db8::1 . udp . 53 }", "[2001:db8::1]:53/udp -> [fd00::3]:53 (map v6_hostip) is missing"},
		{"flushed set", "flush set inet hostport client4_24", "masquerading of 10.244.0.0/24 on the way to 10.244.0.3 (set client4_24) is missing"},
		{"flushed conditions", "flush map inet hostport cond4", "0.0.0.0:8001/tcp with the conditions in chain cond4_"},
		{"dormant table", "add table inet hostport { flags dormant; }", "table inet hostport has flags 0x1"},
		{"host IP ahead", "add element inet hostport v4_hostip { 192.0.2.1 . tcp . 8001 : 10.9.9.9 . 99 }", "192.0.2.1:8001/tcp -> 10.9.9.9:99 (map v4_hostip) should not be there"},
		{"conditions ahead", "add element inet hostport cond6_hostip { 2001:db8::1 . udp . 53 : jump unmapped }", "[2001:db8::1]:53/udp with the conditions in chain unmapped (map cond6_hostip) should not be there"},
		{"foreign rule", "insert rule inet hostport prerouting accept", "chain prerouting has 3 rules instead of 2"},
	}
	a := pod(1, mapped("8001:80/tcp", "2001:db8::1@53:53/udp"), options(func(o *hostport.Options) {
		o.ConditionsV4 = []string{"ip saddr 10.0.0.0/8"}
	}))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			n := &node{t: t, backend: new(Backend)}
			n.add(a, pod(2))
			w.nft(tt.line)
			wantDifference(t, n, a, tt.want)
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
			"rule 1 of chain unmapped differs",
		},
		{
			"other priority", "flush chain inet hostport guard\ndelete chain inet hostport guard\nadd chain inet hostport guard { type filter hook prerouting priority 0; }",
			"chain guard is attached elsewhere than it should be",
		},
	}
	for _, tt := range replaced {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			n := &node{t: t, backend: new(Backend)}
			n.add(a, pod(2))
			w.load(tt.text)
			wantDifference(t, n, a, tt.want)
		})
	}
}

// wantDifference wants both Check and Audit to say it, and Rewrite to repair it.
func wantDifference(t *testing.T, n *node, a *hostport.Attachment, want string) {
	t.Helper()
	says := func(d backend.Difference) bool {
		return strings.Contains(d.Text, want) && (d.Owner == hostport.Key{} || d.Owner == a.Key)
	}
	diff, err := n.backend.Check(t.Context(), []*hostport.Attachment{a}, conformance.Fingerprint(n.held))
	if err != nil || !slices.ContainsFunc(diff, says) {
		t.Errorf("Check = %v, %v\nwant it to say %q", diff, err, want)
	}
	diff, err = n.backend.Audit(t.Context(), n.held, conformance.Fingerprint(n.held))
	if err != nil || !slices.ContainsFunc(diff, says) {
		t.Errorf("Audit = %v, %v\nwant it to say %q", diff, err, want)
	}
	n.rewrite()
	n.wantClean()
}

// Audit finds what is there for nobody, also if nothing is on record.
func TestAuditFindsWhatNobodyOwns(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1), pod(2))
	w.nft("add element inet hostport v4 { tcp . 7777 : 10.9.9.9 . 99 }")
	w.nft("add chain inet hostport mine")
	w.nft("add set inet hostport client4_9 { type ipv4_addr . ipv4_addr ; }")
	audit := func(all ...*hostport.Attachment) []backend.Difference {
		t.Helper()
		diff, err := n.backend.Audit(t.Context(), all, conformance.Fingerprint(all))
		if err != nil {
			t.Fatal(err)
		}
		return diff
	}
	stranger := backend.Difference{Text: "0.0.0.0:7777/tcp -> 10.9.9.9:99 (map v4) should not be there"}
	second := backend.Difference{Owner: pod(2).Key, Text: "0.0.0.0:8002/tcp -> 10.244.0.4:80 (map v4) should not be there"}
	for _, want := range []backend.Difference{
		stranger, second, {Text: "chain mine should not be there"}, {Text: "set client4_9 should not be there"},
	} {
		if got := audit(pod(1)); !slices.Contains(got, want) {
			t.Errorf("Audit = %v\nwant %v among them", got, want)
		}
	}
	for _, want := range []backend.Difference{stranger, second, {Text: "table inet hostport should not be there"}} {
		if got := audit(); !slices.Contains(got, want) {
			t.Errorf("with nothing on record: Audit = %v\nwant %v among them", got, want)
		}
	}
	n.rewrite()
	n.wantClean()
}

// Conditions that a newer version may have understood close the port, and are
// named.
func TestUnreadableConditions(t *testing.T) {
	newWorld(t)
	var log strings.Builder
	n := &node{t: t, backend: &Backend{Log: slog.New(slog.NewTextHandler(&log, nil))}}
	a := pod(1, options(func(o *hostport.Options) { o.ConditionsV4 = []string{"tcp sport 1"} }))
	n.held = []*hostport.Attachment{a, pod(2)}
	n.rewrite()
	if !strings.Contains(log.String(), "tcp sport 1") {
		t.Errorf("Rewrite logged %q", log.String())
	}
	diff, err := n.backend.Check(t.Context(), n.held, conformance.Fingerprint(n.held))
	if err != nil || len(diff) != 1 || diff[0].Owner != a.Key || !strings.Contains(diff[0].Text, `conditionsV4: cannot use "tcp sport 1"`) {
		t.Errorf("Check = %v, %v", diff, err)
	}
}

// Rewrite leaves a table alone that is right, and its counters.
func TestRewriteKeepsWhatIsRight(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(everything()...)
	before := w.nft("-a list ruleset")
	n.rewrite()
	if diff := cmp.Diff(before, w.nft("-a list ruleset")); diff != "" {
		t.Errorf("ruleset with handles (-before +after):\n%s", diff)
	}
}

func TestOwners(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	conditions := pod(20, mapped("80:80/tcp", "192.0.2.1@81:81/udp"), options(func(o *hostport.Options) {
		o.ConditionsV4 = []string{"ip saddr != { 10.0.0.0/8, 192.168.0.0/16 }", `iifname "eth0" meta mark & 0xff == 3`}
		o.ConditionsV6 = []string{"ip6 daddr fd00::/8"}
	}))
	long := pod(21, func(a *hostport.Attachment) { a.Pod.Name = strings.Repeat("n", 60) })
	second := pod(22, mapped("90:90/tcp"), func(a *hostport.Attachment) { a.IfName = "net1" })
	n.add(append(everything(), conditions, long, second)...)
	w.nft("add element inet hostport v4 { tcp . 7777 : 10.9.9.9 . 99 }") // nobody's

	got, err := n.backend.Owners(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var want []*hostport.Attachment
	for _, a := range n.held {
		if rules, _ := wantObjects(a); len(rules) > 0 {
			want = append(want, readable(a))
		}
	}
	byKey := cmpopts.SortSlices(func(x, y *hostport.Attachment) bool { return x.Key.String() < y.Key.String() })
	mappings := cmpopts.SortSlices(func(x, y hostport.Mapping) bool { return x.String() < y.String() })
	addr := cmp.Comparer(func(x, y netip.Addr) bool { return x == y })
	prefix := cmp.Comparer(func(x, y netip.Prefix) bool { return x == y })
	if diff := cmp.Diff(want, got, byKey, mappings, addr, prefix, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
	for _, a := range got {
		if a.Key == conditions.Key {
			continue // the name of its chain stands for how its conditions were written
		}
		if diff, err := n.backend.Check(t.Context(), []*hostport.Attachment{a}, conformance.Fingerprint(got)); err != nil || len(diff) > 0 {
			t.Errorf("%s does not match the kernel: %v, %v", a.Key, diff, err)
		}
	}
}

// readable is what of an attachment is in the kernel.
func readable(a *hostport.Attachment) *hostport.Attachment {
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
		rules, err := parseConditions(*texts, f)
		if err != nil {
			panic(err)
		}
		*texts = comments(rules)
	}
	return &r
}

func TestOwnersOfNothing(t *testing.T) {
	newWorld(t)
	got, err := new(Backend).Owners(t.Context())
	if err != nil || len(got) != 0 {
		t.Errorf("Owners = %v, %v", got, err)
	}
}
