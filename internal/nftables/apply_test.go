package nftables

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/backend/conformance"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/netns"
)

// variety is one attachment of each kind that shapes rules differently.
func variety() map[string]*hostport.Attachment {
	return map[string]*hostport.Attachment{
		"plain":     pod(1),
		"host IPs":  pod(2, mapped("192.0.2.1@53:53/udp", "192.0.2.1@53:53/tcp", "2001:db8::1@53:53/udp", "0.0.0.0@54:54/sctp", "::@55:55/tcp")),
		"only IPv4": pod(3, addressed("10.244.0.90/24")),
		"only IPv6": pod(4, addressed("fd00::90/80")),
		"narrow":    pod(5, addressed("10.244.9.1/32", "fd09::1/128")),
		"odd":       pod(6, addressed("10.200.33.7/21", "fd09::7/57")),
		"masqAll":   pod(7, options(func(o *hostport.Options) { o.MasqueradeAll = true })),
		"no snat":   pod(8, options(func(o *hostport.Options) { o.SNAT = false })),
		"pod in /8": pod(9, addressed("10.9.9.9/8")),
		"nothing":   pod(10, addressed("10.9.9.10/24"), mapped("::@80:80/tcp")),
	}
}

func TestAddThenDeleteLeavesNoTrace(t *testing.T) {
	for name, a := range variety() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.load(foreign)
			n := &node{t: t, backend: new(Backend)}

			empty := w.ruleset()
			n.add(a)
			n.del(a)
			if diff := cmp.Diff(empty, w.ruleset()); diff != "" {
				t.Errorf("alone: ruleset after ADD and DEL (-before +after):\n%s", diff)
			}

			n.add(pod(100), pod(101))
			before := w.ruleset()
			n.add(a)
			n.del(a)
			if diff := cmp.Diff(before, w.ruleset()); diff != "" {
				t.Errorf("beside others: ruleset after ADD and DEL (-before +after):\n%s", diff)
			}
		})
	}
}

// foreign is what others have on a node.
const foreign = `
table ip nat {
	chain PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr 10.96.0.10 udp dport 53 dnat to 10.244.0.53:53
	}
}
table inet filter {
	set v4 { type ipv4_addr; elements = { 192.0.2.7 } }
	chain hostports { ip saddr @v4 drop; }
}
`

// Counters, handles and the order of everything stay as they are.
func TestAddTwiceEqualsOnce(t *testing.T) {
	for name, a := range variety() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := &node{t: t, backend: new(Backend)}
			n.add(pod(100))
			n.add(a)
			once := w.nft("-a list ruleset")
			n.add(a)
			if diff := cmp.Diff(once, w.nft("-a list ruleset")); diff != "" {
				t.Errorf("ruleset after the second ADD (-once +twice):\n%s", diff)
			}
		})
	}
}

// The table is the same whatever the order in which attachments came and went.
func TestOrderDoesNotMatter(t *testing.T) {
	var all []*hostport.Attachment
	for _, a := range variety() { // in random order
		all = append(all, a)
	}
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	for _, a := range all {
		n.add(a)
		n.add(pod(50))
		n.del(pod(50))
	}
	grown := w.unordered()
	w.nft("delete table inet hostport")
	n.rewrite()
	if diff := cmp.Diff(w.unordered(), grown); diff != "" {
		t.Errorf("table written at once, and grown (-at once +grown):\n%s", diff)
	}
}

func TestAddChangesWhatChanged(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1), pod(2))
	n.add(pod(1, addressed("10.245.0.9/16"), mapped("9000:90/tcp")))
	got := w.unordered()

	other := newWorld(t)
	m := &node{t: t, backend: new(Backend)}
	m.add(pod(1, addressed("10.245.0.9/16"), mapped("9000:90/tcp")), pod(2))
	if diff := cmp.Diff(other.unordered(), got); diff != "" {
		t.Errorf("changed attachment (-want +got):\n%s", diff)
	}
}

// A pod of a prefix length of its own leaves no trace between others.
func TestRareLengthsComeAndGo(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	var before []string
	pods := []*hostport.Attachment{
		pod(1), pod(2, addressed("10.1.0.9/16")), pod(3, addressed("fd00::9/57")), pod(4, addressed("10.9.9.9/32")),
	}
	for _, a := range pods {
		before = append(before, w.ruleset())
		n.add(a)
	}
	for i, a := range slices.Backward(pods) {
		n.del(a)
		if diff := cmp.Diff(before[i], w.ruleset()); diff != "" {
			t.Errorf("after the DEL of pod %d (-before its ADD +now):\n%s", i+1, diff)
		}
	}
	if n.resyncs != 0 {
		t.Errorf("%d resyncs", n.resyncs)
	}
}

// An ADD with other conditions has them, and repairs what somebody deleted.
func TestAddAgain(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	conditions := func(text string) *hostport.Attachment {
		return pod(1, options(func(o *hostport.Options) { o.ConditionsV4 = []string{text} }))
	}
	n.add(pod(1), pod(2))
	n.add(conditions("iifname eth0"))
	n.add(conditions("iifname eth1"))
	n.wantClean()
	w.nft("delete element inet hostport v4 { tcp . 8001 }")
	n.add(conditions("iifname eth1"))
	n.wantClean()
	w.nft("flush chain inet hostport " + conditionChain(pod(1).Key, []string{"iifname eth1"}, hostport.IPv4).name)
	n.add(conditions("iifname eth1"))
	n.wantClean()
	n.add(pod(1))
	n.wantClean()
	if n.resyncs != 1 {
		t.Errorf("%d resyncs, want that after the flush alone", n.resyncs)
	}
}

// A dead owner's port is taken over in the transaction that adds the new one.
func TestTakeOver(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	dead, heir := pod(1, mapped("8080:80/tcp")), pod(2, mapped("8080:80/tcp"))
	n.add(dead, pod(3))
	n.apply([]*hostport.Attachment{dead}, []*hostport.Attachment{heir})
	got := w.nft("list map inet hostport v4")
	if !strings.Contains(got, "web-2") || strings.Contains(got, "web-1") {
		t.Errorf("port 8080 should be held by web-2 alone:\n%s", got)
	}
}

func TestHeal(t *testing.T) {
	damage := map[string][]string{
		"flush ruleset":       {"flush ruleset"},
		"delete table":        {"delete table inet hostport"},
		"flush table":         {"flush table inet hostport"},
		"flush chain":         {"flush chain inet hostport hostports"},
		"flush clients":       {"flush chain inet hostport " + chainClients},
		"delete chain":        {"delete chain inet hostport guard"},
		"foreign rule":        {"insert rule inet hostport prerouting counter accept"},
		"foreign key, other":  {"add element inet hostport v4 { tcp . 8009 : 10.9.9.9 . 99 }"},
		"emptied and rebuilt": {"delete table inet hostport", "add table inet hostport", "add chain inet hostport mine"},
		"another type":        {"delete table inet hostport", "add table inet hostport", "add map inet hostport v4 { type mark : mark ; }"},
	}
	for name, lines := range damage {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := &node{t: t, backend: new(Backend)}
			n.add(pod(1), pod(2))
			for _, line := range lines {
				w.nft(line)
			}
			n.add(pod(9))
			got := w.unordered()

			clean := newWorld(t)
			m := &node{t: t, backend: new(Backend)}
			m.add(pod(1), pod(2), pod(9))
			if diff := cmp.Diff(clean.unordered(), got); diff != "" {
				t.Errorf("healed ruleset (-want +got):\n%s", diff)
			}
		})
	}
}

// Deleting what is no longer there heals as well.
func TestDeleteAfterFlush(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1), pod(2))
	before := w.ruleset()
	n.add(pod(3))
	w.nft("flush ruleset")
	n.del(pod(3))
	if diff := cmp.Diff(before, w.ruleset()); diff != "" {
		t.Errorf("ruleset (-want +got):\n%s", diff)
	}
	w.nft("flush ruleset")
	n.del(pod(1), pod(2))
	if got := w.ruleset(); got != "" {
		t.Errorf("ruleset after the last DEL:\n%s", got)
	}
}

// What nft -f loads from a listing is what we wrote, as far as anyone can tell
// who does not know the table's handle.
func TestListingLoads(t *testing.T) {
	all := everything()
	all = append(all, pod(30, func(a *hostport.Attachment) {
		a.Network = strings.Repeat("n", 300)
		a.Pod.Name = strings.Repeat("p", 253)
	}), pod(31, options(func(o *hostport.Options) {
		o.ConditionsV4, o.ConditionsV6 = []string{"ip saddr", "!=", "{ 10.0.0.0/8, 192.0.2.1 }"}, []string{`iifname "eth*"`, "mark 1/1"}
	})))
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(all...)
	saved := w.nft("list ruleset")
	w.nft("flush ruleset")
	w.load(saved)
	n.wantClean()
	n.seen = ""
	n.add(pod(40))
	n.del(pod(40))
	if n.resyncs != 0 {
		t.Errorf("%d resyncs of a table that was loaded from its own listing", n.resyncs)
	}
	if diff := cmp.Diff(netns.NFTText(saved), w.ruleset()); diff != "" {
		t.Errorf("listing after loading it (-saved +loaded):\n%s", diff)
	}
}

// What is right already serves during a rewrite: it is not written again.
func TestRewriteWritesWhatDiffers(t *testing.T) {
	const none, some = "packets 0 bytes 0", "packets 7 bytes 7"
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1), pod(2), pod(3))
	listing := w.nft("list table inet hostport")
	w.nft("flush ruleset")
	w.load(strings.ReplaceAll(listing, none, some))
	kept := strings.Count(listing, none)
	for _, damage := range []struct {
		line     string
		rewrites int // elements
	}{
		{"add chain inet hostport mine { type nat hook prerouting priority -96 ; }", 0},
		{"add chain inet hostport mine ; add chain inet hostport another ; add rule inet hostport mine jump another", 0},
		{"add chain inet hostport mine ; add chain inet hostport another ; add rule inet hostport another jump mine", 0},
		{"add set inet hostport mine { type inet_service ; flags interval ; } ; add element inet hostport mine { 80-90 }", 0},
		{"add map inet hostport mine { type mark : verdict ; } ; add element inet hostport mine { 1 : goto hostports }", 0},
		{"insert rule inet hostport postrouting tcp dport { 80, 443 } accept", 0},
		{"flush table inet hostport", 0},
		{"flush chain inet hostport unmapped", 0},
		{"delete chain inet hostport guard", 0},
		{"add element inet hostport v4 { tcp . 9 : 10.9.9.9 . 80 }", 0},
		{"delete element inet hostport v4 { tcp . 8001 }", 1},
		{"delete element inet hostport v6 { tcp . 8001 } ; add element inet hostport v6 { tcp . 8001 : fd00::9 . 80 }", 1},
	} {
		w.nft(damage.line)
		n.rewrite()
		n.wantClean()
		kept -= damage.rewrites
		if got := strings.Count(w.nft("list table inet hostport"), some); got != kept {
			t.Errorf("%s: %d elements were kept, want %d", damage.line, got, kept)
		}
	}
}

// Where the kernel cannot change what differs, the table is replaced.
func TestRewriteReplacesWhatCannotChange(t *testing.T) {
	for name, lines := range map[string][]string{
		"map of another type":    {"delete table inet hostport", "add table inet hostport", "add map inet hostport v4 { type mark : mark ; }"},
		"map without counters":   {"delete table inet hostport", "add table inet hostport", "add map inet hostport v4 { type inet_proto . inet_service : ipv4_addr . inet_service ; }"},
		"chain at another hook":  {"delete chain inet hostport guard", "add chain inet hostport guard { type filter hook input priority raw ; }"},
		"chain at no hook":       {"delete chain inet hostport guard", "add chain inet hostport guard"},
		"chain that drops":       {"add chain inet hostport guard { policy drop ; }"},
		"table that is not used": {"add table inet hostport { flags dormant ; }"},
		"map that forgets":       {"delete table inet hostport", "add table inet hostport", "add map inet hostport v4 { type inet_proto . inet_service : ipv4_addr . inet_service ; counter ; timeout 3s ; }"},
		"map of ranges":          {"delete table inet hostport", "add table inet hostport", "add map inet hostport v4 { type inet_proto . inet_service : ipv4_addr . inet_service ; counter ; flags interval ; }"},
		"set that is full":       {"delete table inet hostport", "add table inet hostport", "add set inet hostport client4_24 { type ipv4_addr . ipv4_addr ; size 2 ; }"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := &node{t: t, backend: new(Backend)}
			n.add(pod(1), pod(2))
			want := w.unordered()
			for _, line := range lines {
				w.nft(line)
			}
			have, err := n.backend.read(t.Context(), nil)
			if d := difference(have, contents(nil, n.held)).first(); err != nil || !d.creates() {
				t.Errorf("the kernel is asked for what it cannot do: %v", err)
			}
			n.rewritesTo(w, want)
		})
	}
}

// What the kernel refuses to change otherwise is replaced too.
func TestRewriteReplacesWhatIsRefused(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1), pod(2))
	want := w.unordered()
	w.nft("add element inet hostport v4 { * : 10.9.9.9 . 80 }") // it has no key
	n.rewritesTo(w, want)
}

// Conditions that another program changed a little are as wrong as any: they let packets
// through, or cannot be read back after a lost state.
func TestRewriteOfConditions(t *testing.T) {
	only := pod(1, options(func(o *hostport.Options) { o.ConditionsV4 = []string{"ip saddr 10.0.0.0/8"} }))
	chain := conditionChain(only.Key, only.Options.ConditionsV4, hostport.IPv4).name
	for name, lines := range map[string][]string{
		"goto":    {"delete element inet hostport cond4 { tcp . 8001 }", `add element inet hostport cond4 { tcp . 8001 comment "` + only.Tag(maxComment) + `" : goto ` + chain + " }"},
		"comment": {"flush chain inet hostport " + chain, "add rule inet hostport " + chain + " ip saddr != 10.0.0.0/8 goto unmapped"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := &node{t: t, backend: new(Backend)}
			n.add(only)
			want := w.unordered()
			w.load(strings.Join(lines, "\n"))
			diff, err := n.backend.Check(t.Context(), n.held, conformance.Fingerprint(n.held))
			if len(diff) == 0 || err != nil {
				t.Errorf("Check = %v, %v", diff, err)
			}
			owners, err := n.backend.Owners(t.Context())
			if err != nil || len(owners) != 1 || name == "goto" && len(owners[0].Options.ConditionsV4) != 1 {
				t.Errorf("Owners = %v, %v", owners, err)
			}
			n.rewritesTo(w, want)
		})
	}
}

func TestRewriteWithNoneLeavesNothing(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	for range 2 {
		n.rewrite()
	}
	n.add(pod(1))
	n.held = nil
	n.rewrite()
	w.nft("add table inet hostport") // another program's, or left behind
	n.rewrite()
	if got := w.ruleset(); got != "" {
		t.Errorf("ruleset:\n%s", got)
	}
}

func TestLargeBatches(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: new(Backend)}
	big := pod(1)
	big.Mappings = nil
	for p := range 60000 {
		big.Mappings = append(big.Mappings, hostport.Mapping{HostPort: uint16(p + 1), ContainerPort: uint16(p + 1), Protocol: hostport.TCP})
	}
	n.add(pod(2, mapped("1:1/udp")))
	n.add(big)
	n.add(big)
	got, err := n.backend.Owners(t.Context())
	if err != nil || len(got) != 2 {
		t.Fatalf("read %d owners, %v", len(got), err)
	}
	wantClean(t, n.backend, got)
	n.del(big)
	if got := w.nft("list map inet hostport v4"); strings.Count(got, "comment") != 1 {
		t.Errorf("map v4 after the DEL:\n%s", got)
	}

	var many []*hostport.Attachment
	for i := range 5000 {
		many = append(many, pod(3000+i, mapped("1:1/tcp"), func(a *hostport.Attachment) {
			a.Mappings[0].HostPort = uint16(10000 + i)
		}))
	}
	n.add(many...)
	n.del(many...)
	if got := w.nft("list map inet hostport v4"); strings.Count(got, "comment") != 1 {
		t.Errorf("map v4 after 5,000 DELs:\n%s", got)
	}
}
