package conformance

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Harness is a backend with a network namespace of its own.
type Harness struct {
	Backend backend.Backend
	// Name is the backend's name in records.
	Name string
	// Ruleset lists all rules in the namespace, without counters and the like.
	Ruleset func() string
	// Save returns a function that restores the rules as they are now, as a
	// firewall service does.
	Save func() (restore func())
	// ConditionsV4 and ConditionsV6 are conditions that the backend takes.
	ConditionsV4, ConditionsV6 []string
}

// Others are the attachments that a change leaves alone.
type Others []*hostport.Attachment

// InUse reports whether one of them maps a host port from first to last.
func (o Others) InUse(f hostport.Family, p hostport.Protocol, first, last uint16) (bool, error) {
	return o.Any(func(a *hostport.Attachment) bool {
		return slices.ContainsFunc(a.Forwards(f), func(fw hostport.Forward) bool {
			return fw.Protocol == p && first <= fw.HostPort && fw.HostPort <= last
		})
	})
}

// Any reports whether match holds for one of them.
func (o Others) Any(match func(*hostport.Attachment) bool) (bool, error) {
	return slices.ContainsFunc(o, match), nil
}

// Fingerprint returns the fingerprint of these attachments.
func Fingerprint(all []*hostport.Attachment) hostport.Fingerprint {
	return hostport.Fingerprint{}.Toggle(backend.Layout, all...)
}

// node has the records of one backend, as internal/node has, and does not resync
// by itself.
type node struct {
	Harness
	t    *testing.T
	held []*hostport.Attachment
	seen string
}

// apply replaces the held attachments in remove by add. On error the records do
// not change.
func (n *node) apply(remove, add []*hostport.Attachment) error {
	stay := slices.DeleteFunc(slices.Clone(n.held), func(a *hostport.Attachment) bool { return slices.Contains(remove, a) })
	after := slices.Concat(stay, add)
	seen, err := n.Backend.Apply(context.Background(), backend.Change{
		Remove: remove, Add: add, Before: Fingerprint(n.held), After: Fingerprint(after), Seen: n.seen, Others: Others(stay),
	})
	if err == nil {
		n.held, n.seen = after, seen
	}
	return err
}

func (n *node) change(remove, add []*hostport.Attachment) {
	n.t.Helper()
	if err := n.apply(remove, add); err != nil {
		n.t.Fatalf("apply: %v", err)
	}
}

func (n *node) add(a ...*hostport.Attachment) { n.t.Helper(); n.change(nil, a) }

func (n *node) del(a ...*hostport.Attachment) { n.t.Helper(); n.change(a, nil) }

// rewrite makes the kernel match the records. Rewrite must return the owners that the
// rules named.
func (n *node) rewrite() {
	n.t.Helper()
	owners, ownersErr := n.Backend.Owners(context.Background())
	seen, was, err := n.Backend.Rewrite(context.Background(), n.held, Fingerprint(n.held))
	if err = errors.Join(ownersErr, err); err != nil {
		n.t.Fatalf("rewrite: %v", err)
	}
	if diff := cmp.Diff(facts(owners), facts(was), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()); diff != "" {
		n.t.Errorf("owners that Rewrite found (-want +got):\n%s", diff)
	}
	n.seen = seen
}

// agrees fails if the backend finds that the kernel differs from the records.
func (n *node) agrees() {
	n.t.Helper()
	found, err := n.Backend.Check(context.Background(), n.held, Fingerprint(n.held))
	if len(found) > 0 || err != nil {
		n.t.Errorf("Check: %v, %v", found, err)
	}
	found, err = n.Backend.Audit(context.Background(), n.held, Fingerprint(n.held))
	if len(found) > 0 || err != nil {
		n.t.Errorf("Audit: %v, %v", found, err)
	}
}
