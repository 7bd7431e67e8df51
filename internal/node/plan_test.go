package node

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

const thisBoot = "0000b007"

var here = origin{boot: thisBoot, state: "5e6f70"}

// pod makes an attachment of a container with an address and host ports that
// lead to port 80.
func pod(id, address string, ports ...uint16) *hostport.Attachment {
	a := &hostport.Attachment{
		Key:     hostport.Key{ContainerID: id, IfName: "eth0"},
		Pod:     hostport.Pod{Namespace: "default", Name: id, UID: "uid-" + id},
		Boot:    thisBoot,
		Backend: backend.Iptables,
		AddedAt: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC),
	}
	a.Addresses = []netip.Prefix{netip.MustParsePrefix(address)}
	for _, p := range ports {
		a.Mappings = append(a.Mappings, hostport.Mapping{HostPort: p, ContainerPort: 80, Protocol: hostport.TCP})
	}
	return a
}

// with returns a changed copy of a.
func with(a *hostport.Attachment, change func(*hostport.Attachment)) *hostport.Attachment {
	c := *a
	change(&c)
	return &c
}

// lives returns a deadFunc in which the named containers live, those with a "?"
// before their name are unknown, and all others are dead.
func lives(ids ...string) deadFunc {
	return func(a *hostport.Attachment) (bool, error) {
		if slices.Contains(ids, "?"+a.ContainerID) {
			return false, ErrUnseen
		}
		return !slices.Contains(ids, a.ContainerID), nil
	}
}

func ids(all []*hostport.Attachment) string {
	var out []string
	for _, a := range all {
		out = append(out, a.ContainerID)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestPlanAdd(t *testing.T) {
	want := pod("new", "10.0.0.9/24", 80, 443)
	for _, tc := range []struct {
		name     string
		found    *hostport.Attachment
		dead     deadFunc
		removed  string
		conflict string // in the error; "" is none
	}{
		{"nobody there", pod("other", "10.0.0.2/24", 81), lives("other"), "", ""},
		{"its own earlier record", with(pod("new", "10.0.0.3/24", 8080), func(*hostport.Attachment) {}), lives(), "new", ""},
		{"a living owner of a port", pod("old", "10.0.0.2/24", 443), lives("old"), "", "host port 443/tcp is held by pod default/old (container old), since 2026-11-24T12:00:00Z"},
		{"a dead owner of a port", pod("old", "10.0.0.2/24", 443), lives(), "old", ""},
		{"an owner that may live", pod("old", "10.0.0.2/24", 443), lives("?old"), "", "cannot determine"},
		{"an earlier sandbox of the pod", with(pod("old", "10.0.0.2/24", 443), func(a *hostport.Attachment) { a.Pod.UID = "uid-new" }), lives("old"), "old", ""},
		{"another interface of the same sandbox", with(pod("new", "10.0.1.2/24", 443), func(a *hostport.Attachment) { a.IfName, a.Pod.UID = "net1", "uid-new" }), lives("new"), "", "held by"},
		{"another pod without UID", with(pod("old", "10.0.0.2/24", 443), func(a *hostport.Attachment) { a.Pod.UID = "" }), lives("old"), "", "held by"},
		{"a living owner of the address", pod("old", "10.0.0.9/24", 8080), lives("old"), "", "pod address 10.0.0.9 is in use by pod default/old"},
		{"a dead owner of the address", pod("old", "10.0.0.9/24", 8080), lives(), "old", ""},
		{"the same container has the address on another interface", with(pod("new", "10.0.0.9/24", 8080), func(a *hostport.Attachment) { a.IfName = "net1" }), lives("new"), "", ""},
		{"the port on another host IP", with(pod("old", "10.0.0.2/24", 443), func(a *hostport.Attachment) { a.Mappings[0].Protocol = hostport.UDP }), lives("old"), "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := planAdd(want, []*hostport.Attachment{tc.found}, tc.dead)
			if tc.conflict != "" {
				if _, ok := errors.AsType[*ConflictError](err); !ok || !strings.Contains(err.Error(), tc.conflict) {
					t.Fatalf("planAdd = %v, want a conflict with %q", err, tc.conflict)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if ids(p.remove) != tc.removed || ids(p.add) != "new" {
				t.Errorf("removes %q, adds %q; want %q, \"new\"", ids(p.remove), ids(p.add), tc.removed)
			}
		})
	}
}

// Without a UID two containers are two pods, also if neither has one.
func TestPodsWithoutUIDAreNotOne(t *testing.T) {
	noUID := func(a *hostport.Attachment) { a.Pod = hostport.Pod{} }
	_, err := planAdd(with(pod("new", "10.0.0.9/24", 80), noUID), []*hostport.Attachment{with(pod("old", "10.0.0.2/24", 80), noUID)}, lives("old"))
	if _, ok := errors.AsType[*ConflictError](err); !ok {
		t.Errorf("planAdd = %v, want a conflict", err)
	}
}

func TestPlanGC(t *testing.T) {
	in := func(id, network string) *hostport.Attachment {
		return with(pod(id, "10.0.0.2/24", 80), func(a *hostport.Attachment) { a.Network = network })
	}
	two := []*hostport.Attachment{in("a", "podnet"), in("b", "podnet")}
	for _, tc := range []struct {
		name    string
		records []*hostport.Attachment
		valid   []hostport.Key
		listed  bool
		dead    deadFunc
		removed string
		err     error
	}{
		{name: "one is valid, the other lives", records: two, valid: []hostport.Key{two[0].Key}, listed: true, dead: lives("a", "b"), removed: "b"},
		{name: "valid and dead", records: two[:1], valid: []hostport.Key{two[0].Key}, listed: true, dead: lives()},
		{name: "another interface is valid", records: two[:1], valid: []hostport.Key{{ContainerID: "a", IfName: "net1"}}, listed: true, dead: lives("a"), removed: "a"},
		{name: "an empty list", records: two, listed: true, dead: lives("a", "?b"), removed: "a b"},
		{name: "no list", records: two, dead: lives("a"), removed: "b"},
		{name: "no list, and the first may live", records: two, dead: lives("?a"), err: ErrUnseen},
		{name: "no list, and the second may live", records: two, dead: lives("?b"), err: ErrUnseen},
		{name: "of another network, and dead", records: []*hostport.Attachment{in("a", "other")}, listed: true, dead: lives()},
		{name: "of another network, and dead, no list", records: []*hostport.Attachment{in("a", "other")}, dead: lives()},
		{name: "of an unknown network, and alive", records: []*hostport.Attachment{in("a", "")}, listed: true, dead: lives("a")},
		{name: "of an unknown network, and dead", records: []*hostport.Attachment{in("a", "")}, listed: true, dead: lives(), removed: "a"},
		{name: "of an unknown network, valid and dead", records: []*hostport.Attachment{in("a", "")}, valid: []hostport.Key{two[0].Key}, listed: true, dead: lives()},
		{name: "of an unknown network, and may live", records: []*hostport.Attachment{in("a", "")}, listed: true, dead: lives("?a"), err: ErrUnseen},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := planGC(tc.records, "podnet", tc.valid, tc.listed, tc.dead)
			if ids(p.remove) != tc.removed || len(p.add) > 0 || !errors.Is(err, tc.err) {
				t.Errorf("removes %q, adds %q, %v; want %q removed, %v", ids(p.remove), ids(p.add), err, tc.removed, tc.err)
			}
		})
	}
}

func TestPlanPrune(t *testing.T) {
	records := []*hostport.Attachment{pod("a", "10.0.0.2/24", 80), pod("b", "10.0.0.3/24", 81), pod("c", "10.0.0.4/24", 82)}
	a, stranger := records[0].Key, pod("d", "10.0.0.5/24", 83).Key
	for _, tc := range []struct {
		name    string
		among   []hostport.Key
		sees    sight
		dead    deadFunc
		removed string
		err     error
	}{
		{"all live", nil, true, lives("a", "b", "c"), "", nil},
		{"two are dead", nil, true, lives("b"), "a c", nil},
		{"two are dead, one was asked about", []hostport.Key{a}, true, lives("b"), "a", nil},
		{"nobody recorded was asked about", []hostport.Key{stranger}, true, lives(), "", nil},
		{"one may live", nil, true, lives("?b"), "", ErrUnseen},
		{"one may live, another was asked about", []hostport.Key{a}, true, lives("?b"), "a", nil},
		{"no sight, and all are seen alive", nil, false, lives("a", "b", "c"), "", ErrUnseen},
		{"no sight, and nobody recorded was asked about", []hostport.Key{stranger}, false, lives(), "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := planPrune(records, tc.among, tc.sees, tc.dead)
			if ids(p.remove) != tc.removed || len(p.add) > 0 || !errors.Is(err, tc.err) {
				t.Errorf("removes %q, adds %q, %v; want %q removed, %v", ids(p.remove), ids(p.add), err, tc.removed, tc.err)
			}
		})
	}
}

func TestPlanAdopt(t *testing.T) {
	recovered := func(a *hostport.Attachment) { a.AddedAt = time.Time{} }
	anotherBoot := func(a *hostport.Attachment) { a.Boot = "ffffffff"; recovered(a) }
	noBoot := func(a *hostport.Attachment) { a.Boot = ""; recovered(a) }
	for _, tc := range []struct {
		name           string
		records, found []*hostport.Attachment
		dead           deadFunc
		remove, add    string
		refused        int
	}{
		{name: "nothing", dead: lives()},
		{name: "a living unknown owner", found: []*hostport.Attachment{with(pod("a", "10.0.0.2/24", 80), recovered)}, dead: lives("a"), add: "a"},
		{name: "a dead unknown owner", found: []*hostport.Attachment{with(pod("a", "10.0.0.2/24", 80), recovered)}, dead: lives()},
		{name: "an owner that may live", found: []*hostport.Attachment{with(pod("a", "10.0.0.2/24", 80), recovered)}, dead: lives("?a"), add: "a"},
		{name: "of another boot, with a living inode", found: []*hostport.Attachment{with(pod("a", "10.0.0.2/24", 80), anotherBoot)}, dead: lives("a")},
		{name: "of layout 1, which names no boot", found: []*hostport.Attachment{with(pod("a", "10.0.0.2/24", 80), noBoot)}, dead: lives("a"), add: "a"},
		{name: "of another state", found: []*hostport.Attachment{with(pod("a", "10.0.0.2/24", 80), func(a *hostport.Attachment) { a.State = "000001" })}, dead: lives("a"), add: "a"},
		{name: "of this state, deleted", found: []*hostport.Attachment{with(pod("a", "10.0.0.2/24", 80), func(a *hostport.Attachment) { a.State = here.state })}, dead: lives("a")},
		{name: "a recorded owner", records: []*hostport.Attachment{pod("a", "10.0.0.2/24", 80)}, found: []*hostport.Attachment{pod("a", "10.0.0.2/24", 81)}, dead: lives("a")},
		{name: "a record of the dead", records: []*hostport.Attachment{pod("a", "10.0.0.2/24", 80)}, dead: lives(), remove: "a"},
		{name: "a record of one that may live", records: []*hostport.Attachment{pod("a", "10.0.0.2/24", 80)}, dead: lives("?a")},
		{name: "a port that a record holds", records: []*hostport.Attachment{pod("a", "10.0.0.2/24", 80)}, found: []*hostport.Attachment{with(pod("b", "10.0.0.3/24", 80), recovered)}, dead: lives("a", "b"), refused: 1},
		{name: "a port that a dead record held", records: []*hostport.Attachment{pod("a", "10.0.0.2/24", 80)}, found: []*hostport.Attachment{with(pod("b", "10.0.0.3/24", 80), recovered)}, dead: lives("b"), remove: "a", add: "b"},
		{
			name:    "a port that a record of the other family's pod has",
			records: []*hostport.Attachment{with(pod("a", "10.0.0.2/24", 80), recovered)},
			found: []*hostport.Attachment{with(pod("b", "fd00::3/64", 80), func(a *hostport.Attachment) {
				a.Mappings[0].HostIP = netip.IPv6Unspecified()
				recovered(a)
			})},
			dead: lives("a", "b"), add: "b",
		},
		{
			name:    "one of two mappings was not yet there",
			records: []*hostport.Attachment{with(pod("a", "10.0.0.2/24", 80), recovered)},
			found:   []*hostport.Attachment{with(pod("a", "10.0.0.2/24", 80, 81), recovered)},
			dead:    lives("a"), remove: "a", add: "a",
		},
		{name: "twice in the kernel", found: []*hostport.Attachment{with(pod("a", "10.0.0.2/24", 80), recovered), with(pod("a", "10.0.0.2/24", 80), recovered)}, dead: lives("a"), add: "a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, refused := planAdopt(tc.records, tc.found, nil, here, tc.dead)
			if ids(p.remove) != tc.remove || ids(p.add) != tc.add || len(refused) != tc.refused {
				t.Errorf("removes %q, adds %q, refuses %d; want %q, %q, %d", ids(p.remove), ids(p.add), len(refused), tc.remove, tc.add, tc.refused)
			}
			for _, a := range p.add {
				if a.Boot != thisBoot || a.State != here.state {
					t.Errorf("adopted of boot %q, state %q", a.Boot, a.State)
				}
			}
		})
	}
}

// The rules of IPv6 could not be read when the record was made from those of
// IPv4. Once they can, the record learns the rest.
func TestAdoptTheOtherFamilyLater(t *testing.T) {
	half := with(pod("a", "10.0.0.2/24", 80), func(a *hostport.Attachment) { a.AddedAt = time.Time{} })
	whole := with(half, func(a *hostport.Attachment) {
		a.Addresses = append(slices.Clone(a.Addresses), netip.MustParsePrefix("fd00::2/64"))
	})
	p, _ := planAdopt([]*hostport.Attachment{half}, []*hostport.Attachment{whole}, nil, here, lives("a"))
	if len(p.add) != 1 || len(p.add[0].Forwards(hostport.IPv6)) != 1 || len(p.add[0].Forwards(hostport.IPv4)) != 1 || ids(p.remove) != "a" {
		t.Errorf("plan = %+v", p)
	}
	// What an ADD recorded is whole, and so is what the kernel knows less of.
	for _, tc := range [][2]*hostport.Attachment{{pod("a", "10.0.0.2/24", 80), whole}, {whole, half}} {
		p, _ = planAdopt(tc[:1], tc[1:], nil, here, lives("a"))
		if !p.empty() {
			t.Errorf("plan = %+v, want none", p)
		}
	}
}

func TestStrangersAreRewritten(t *testing.T) {
	a, b := pod("a", "10.0.0.2/24", 80), pod("b", "10.0.0.3/24", 81)
	onNftables := func(x *hostport.Attachment) { x.Backend = backend.Nftables }
	for _, tc := range []struct {
		name           string
		records, found []*hostport.Attachment
		want           string
	}{
		{"as recorded", []*hostport.Attachment{a, b}, []*hostport.Attachment{a, b}, ""},
		{"nobody in the kernel", []*hostport.Attachment{a, b}, nil, ""},
		{"somebody unknown", []*hostport.Attachment{a}, []*hostport.Attachment{a, b}, "iptables"},
		{"recorded for the other backend", []*hostport.Attachment{a}, []*hostport.Attachment{with(a, onNftables)}, "nftables"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, _ := planAdopt(tc.records, tc.found, nil, here, lives("a", "b"))
			if got := strings.Join(p.strange, " "); got != tc.want {
				t.Errorf("rewrites %q, want %q", got, tc.want)
			}
		})
	}
}

func TestRecordDiffers(t *testing.T) {
	want := pod("a", "10.0.0.2/24", 80)
	recovered := with(pod("a", "10.0.0.2/32", 80), func(a *hostport.Attachment) {
		a.AddedAt = time.Time{}
		a.Mappings[0].HostIP = netip.IPv4Unspecified()
	})
	if err := recordDiffers(recovered, want); err != nil {
		t.Errorf("read back from the kernel: %v", err)
	}
	if err := recordDiffers(pod("a", "10.0.0.2/32", 80), want); err == nil {
		t.Error("another prefix length is no difference")
	}
	if err := recordDiffers(with(recovered, func(a *hostport.Attachment) { a.Mappings = nil }), want); err == nil {
		t.Error("a missing mapping is no difference")
	}
}

// TestRecordDiffersOfThousands: eight times as many mappings take about eight times as
// long, and not sixty-four. All other calls of the node wait meanwhile.
func TestRecordDiffersOfThousands(t *testing.T) {
	took := func(n int) time.Duration {
		a, least := pod("a", "10.0.0.2/24"), time.Hour
		for port := range n {
			a.Mappings = append(a.Mappings, hostport.Mapping{HostPort: uint16(port), ContainerPort: 80, Protocol: hostport.UDP})
		}
		for range 5 {
			start := time.Now()
			if err := recordDiffers(a, a); err != nil {
				t.Fatal(err)
			}
			least = min(least, time.Since(start))
		}
		return least
	}
	if few, many := took(1000), took(8000); many > 30*few {
		t.Errorf("1000 mappings take %v, 8000 take %v", few, many)
	}
}

// TestDeletedStaysDeleted keeps what an interrupted DEL removed from being read back
// from rules that are still there, of layout 1 or of another state.
func TestDeletedStaysDeleted(t *testing.T) {
	web := with(pod("web", "10.0.0.2/24", 80), func(a *hostport.Attachment) { a.State = "000001" })
	for _, tc := range []struct {
		name             string
		changed, records []*hostport.Attachment
		add              string
	}{
		{"removed by the interrupted change", []*hostport.Attachment{web}, nil, ""},
		{"added by the interrupted change", []*hostport.Attachment{web}, []*hostport.Attachment{web}, ""},
		{"not in the interrupted change", []*hostport.Attachment{pod("db", "10.0.0.3/24", 81)}, nil, "web"},
		{"no change was interrupted", nil, nil, "web"},
	} {
		found := with(web, func(*hostport.Attachment) {})
		if p, _ := planAdopt(tc.records, []*hostport.Attachment{found}, tc.changed, here, lives("web")); ids(p.add) != tc.add || len(p.remove) > 0 {
			t.Errorf("%s: adds %q, removes %q, want %q added", tc.name, ids(p.add), ids(p.remove), tc.add)
		}
	}
}

// An error about a lost state says all that is known: that owners may be missing, too.
func TestNoStateError(t *testing.T) {
	owners, unread := []*hostport.Attachment{{}, {}}, errors.New("ip6tables-save: exit status 1")
	for want, e := range map[string]*NoStateError{
		"no state in /run/x": {Dir: "/run/x"},
		"no state in /run/x; not all rules could be read: ip6tables-save: exit status 1":       {Dir: "/run/x", Unread: unread},
		"at its next ADD or CHECK; not all rules could be read: ip6tables-save: exit status 1": {Dir: "/run/x", Owners: owners, Unread: unread},
	} {
		if got := e.Error(); !strings.HasSuffix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
