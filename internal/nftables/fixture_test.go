package nftables

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/backend/conformance"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// pod is an attachment with two families and one mapping; change it as needed.
func pod(n int, change ...func(*hostport.Attachment)) *hostport.Attachment {
	a := &hostport.Attachment{
		Key:     hostport.Key{ContainerID: fmt.Sprintf("%064x", n), IfName: "eth0"},
		Network: "podnet",
		Sandbox: hostport.Sandbox{Path: fmt.Sprintf("/run/netns/%d", n), Device: 4, Inode: uint64(4026532000 + n)},
		Pod:     hostport.Pod{Namespace: "default", Name: fmt.Sprintf("web-%d", n)},
		Addresses: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n / 200), byte(n%200 + 2)}), 24),
			netip.MustParsePrefix(fmt.Sprintf("fd00:%x::%x/64", n/200, n%200+2)),
		},
		Mappings: []hostport.Mapping{{HostPort: uint16(8000 + n), ContainerPort: 80, Protocol: hostport.TCP}},
		Backend:  backend.Nftables,
		Boot:     hostport.BootHash("this boot"),
		Options:  hostport.Options{SNAT: true, MarkMasqBit: 13},
	}
	for _, c := range change {
		c(a)
	}
	return a
}

// mapped replaces the mappings: "8080:80", "192.0.2.1@8080:80/udp".
func mapped(ms ...string) func(*hostport.Attachment) {
	return func(a *hostport.Attachment) {
		a.Mappings = nil
		for _, m := range ms {
			a.Mappings = append(a.Mappings, conformance.Mapping(m))
		}
	}
}

func addressed(ps ...string) func(*hostport.Attachment) {
	return func(a *hostport.Attachment) {
		a.Addresses = nil
		for _, p := range ps {
			a.Addresses = append(a.Addresses, netip.MustParsePrefix(p))
		}
	}
}

func options(change func(*hostport.Options)) func(*hostport.Attachment) {
	return func(a *hostport.Attachment) { change(&a.Options) }
}

// node keeps the attachments of a backend as the state does, and resyncs after
// drift.
type node struct {
	t       testing.TB
	backend *Backend
	held    []*hostport.Attachment
	seen    string
	resyncs int
}

// change replaces attachments of the same key.
func (n *node) change(remove, add []*hostport.Attachment) (c backend.Change, after []*hostport.Attachment) {
	c = backend.Change{Add: add, Seen: n.seen}
	gone := func(a *hostport.Attachment) bool {
		same := func(b *hostport.Attachment) bool { return a.Key == b.Key }
		return slices.ContainsFunc(remove, same) || slices.ContainsFunc(add, same)
	}
	var stay []*hostport.Attachment
	for _, a := range n.held {
		if gone(a) {
			c.Remove = append(c.Remove, a)
		} else {
			stay = append(stay, a)
		}
	}
	after = append(slices.Clone(stay), add...)
	c.Others, c.Before, c.After = conformance.Others(stay), conformance.Fingerprint(n.held), conformance.Fingerprint(after)
	return c, after
}

func (n *node) apply(remove, add []*hostport.Attachment) {
	n.t.Helper()
	c, after := n.change(remove, add)
	seen, err := n.backend.Apply(n.t.Context(), c)
	if errors.Is(err, backend.ErrDrift) {
		n.resyncs++
		seen, _, err = n.backend.Rewrite(n.t.Context(), after, c.After)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.held, n.seen = after, seen
}

func (n *node) add(as ...*hostport.Attachment) { n.t.Helper(); n.apply(nil, as) }
func (n *node) del(as ...*hostport.Attachment) { n.t.Helper(); n.apply(as, nil) }

// rewrite makes the table hold what is held.
func (n *node) rewrite() {
	n.t.Helper()
	seen, _, err := n.backend.Rewrite(n.t.Context(), n.held, conformance.Fingerprint(n.held))
	if err != nil {
		n.t.Fatal(err)
	}
	n.seen = seen
}

// rewritesTo rewrites the table, which has to be want then, in any order.
func (n *node) rewritesTo(w *world, want string) {
	n.t.Helper()
	n.rewrite()
	n.wantClean()
	if diff := cmp.Diff(want, w.unordered()); diff != "" {
		n.t.Errorf("rewritten table (-want +got):\n%s", diff)
	}
}

// wantClean fails the test if the table is not what is held, and nothing else.
func (n *node) wantClean() {
	n.t.Helper()
	wantClean(n.t, n.backend, n.held)
}

func wantClean(t testing.TB, b *Backend, all []*hostport.Attachment) {
	t.Helper()
	diff, err := b.Audit(t.Context(), all, conformance.Fingerprint(all))
	if err != nil || len(diff) > 0 {
		t.Errorf("Audit = %v, %v", diff, err)
	}
	diff, err = b.Check(t.Context(), all, conformance.Fingerprint(all))
	if err != nil || len(diff) > 0 {
		t.Errorf("Check = %v, %v", diff, err)
	}
}
