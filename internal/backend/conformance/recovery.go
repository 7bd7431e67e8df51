package conformance

import (
	"context"
	"errors"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/netns"
)

// testRewriteAfterApply wants Rewrite to write the rules that changes wrote, to
// be idempotent, and to leave rules that can be changed.
func testRewriteAfterApply(n *node) {
	empty := n.Ruleset()
	all := n.allKinds()
	n.add(all[:5]...)
	n.add(all[5:]...)
	n.agrees()
	applied := netns.WithoutPast(n.Ruleset())
	n.rewrite()
	n.agrees()
	rewritten := n.Ruleset()
	if netns.SortedLines(applied) != netns.SortedLines(rewritten) {
		n.same(applied, "Rewrite of what was there")
	}
	n.rewrite()
	n.same(rewritten, "Rewrite again")
	n.del(all[3:12]...)
	n.agrees()
	n.del(n.held...)
	n.same(empty, "after the DEL of the last")
	n.rewrite()
	n.same(empty, "Rewrite with no attachment")
}

// testRewriteOverAnything wants Rewrite to replace rules of attachments without a record.
func testRewriteOverAnything(n *node) {
	empty := n.Ruleset()
	n.held = []*hostport.Attachment{n.pod(1, "8101:80")}
	n.rewrite()
	want := n.Ruleset()
	n.pretend(n.allKinds()...)
	n.rewrite()
	if netns.SortedLines(want) != netns.SortedLines(n.Ruleset()) {
		n.same(want, "Rewrite over the rules of others")
	}
	n.agrees()
	n.pretend(n.allKinds()...)
	n.held = nil
	n.rewrite()
	n.same(empty, "Rewrite with no attachment")
}

// pretend makes the kernel hold the rules of these attachments, whatever is recorded.
func (n *node) pretend(all ...*hostport.Attachment) {
	n.t.Helper()
	if _, _, err := n.Backend.Rewrite(context.Background(), all, Fingerprint(all)); err != nil {
		n.t.Fatal(err)
	}
}

// wantDrift fails unless a change is refused with ErrDrift, and works after a
// Rewrite. The DEL of the last attachment may succeed if it removes everything.
func (n *node) wantDrift(remove, add []*hostport.Attachment) {
	n.t.Helper()
	err := n.apply(remove, add)
	if err == nil && len(n.held) == 0 {
		n.agrees()
		return
	}
	if !errors.Is(err, backend.ErrDrift) {
		n.t.Fatalf("error %v, want ErrDrift", err)
	}
	n.rewrite()
	n.change(remove, add)
	n.agrees()
}

// testOlderSnapshot has a firewall service restore rules that it saved earlier:
// with fewer pods, with pods that have ended, and with others at the same ports.
func testOlderSnapshot(n *node) {
	a, b := n.pod(1, "8080:80"), n.pod(2, "8081:80")
	n.add(a)
	onlyA := n.Save()
	n.add(b)
	both := n.Save()
	onlyA()
	n.wantDrift(nil, []*hostport.Attachment{n.pod(3, "8082:80")})
	n.del(b)
	both()
	n.wantDrift(nil, []*hostport.Attachment{n.pod(4, "8081:90")})
	onlyA()
	n.wantDrift(n.held, nil)
	if text := n.Ruleset(); text != "" {
		n.t.Errorf("left after the DEL of the last:\n%s", text)
	}
}

// testDrift applies changes where the kernel is not at Before: another version of
// the plugin, or one with another state directory, wrote different rules.
func testDrift(n *node) {
	a, b, c := n.pod(1, "8080:80"), n.pod(2, "8081:80"), n.pod(3, "8082:80")
	one := func(a *hostport.Attachment) []*hostport.Attachment { return []*hostport.Attachment{a} }
	for _, tc := range []struct{ there, remove, add []*hostport.Attachment }{
		{there: []*hostport.Attachment{a, b}, add: one(c)},
		{there: one(b), remove: one(a), add: one(n.pod(1, "8080:90"))},
		{there: one(n.pod(1, "8080:81")), add: one(c)},
		{there: one(b), remove: one(a)},
		{there: nil, add: one(c)},
	} {
		n.held, n.seen = nil, ""
		n.rewrite()
		n.add(a)
		n.pretend(tc.there...)
		n.wantDrift(tc.remove, tc.add)
	}
}

// testRulesGone applies changes after all rules of the node were flushed.
func testRulesGone(n *node) {
	none := n.Save()
	a := n.pod(1, "8080:80")
	n.add(a)
	none()
	n.wantDrift(nil, []*hostport.Attachment{n.pod(2, "8081:80")})
	none()
	n.wantDrift(n.held, nil)
	n.same("", "after the DEL of the last")
}

func testAuditFindsStrangers(n *node) {
	a, b := n.pod(1, "8080:80"), n.pod(2, "8081:80", "192.0.2.1@53:53/udp")
	for _, held := range [][]*hostport.Attachment{{a}, nil} {
		n.held = held
		n.pretend(slices.Concat(held, []*hostport.Attachment{b})...)
		found, err := n.Backend.Audit(context.Background(), n.held, Fingerprint(n.held))
		if len(found) == 0 || err != nil {
			n.t.Errorf("Audit beside the rules of a stranger: %v, %v", found, err)
		}
	}
}

func testAuditFindsMissing(n *node) {
	a, b := n.pod(1, "8080:80"), n.pod(2, "18081:80")
	n.held = []*hostport.Attachment{a, b}
	n.pretend(a)
	n.wantNamed("Audit", b)
	n.wantNamed("Check", b)
	n.held = []*hostport.Attachment{a}
	n.agrees()
}

func testAuditFindsDifferent(n *node) {
	a, b := n.pod(1, "8080:80"), n.pod(2, "18081:80")
	other := *b
	other.Mappings = []hostport.Mapping{Mapping("18081:81")}
	n.held = []*hostport.Attachment{a, b}
	n.pretend(a, &other)
	n.wantNamed("Audit", b)
	n.wantNamed("Check", b)
}

// wantNamed fails unless differences name the attachment and no other. That the
// fingerprint differs concerns all of them, and may be reported as well.
func (n *node) wantNamed(what string, a *hostport.Attachment) {
	n.t.Helper()
	ask := n.Backend.Audit
	if what == "Check" {
		ask = n.Backend.Check
	}
	found, err := ask(context.Background(), n.held, Fingerprint(n.held))
	named := false
	for _, d := range found {
		named = named || d.Owner == a.Key
		if d.Owner != a.Key && !d.Shared {
			n.t.Errorf("%s names %s: %s", what, d.Owner, d.Text)
		}
	}
	if !named || err != nil {
		n.t.Errorf("%s does not name %s: %v, %v", what, a.Key, found, err)
	}
	if what == "Audit" {
		return
	}
	for _, one := range n.held {
		if one.Key == a.Key {
			continue
		}
		found, err := n.Backend.Check(context.Background(), []*hostport.Attachment{one}, Fingerprint(n.held))
		for _, d := range found {
			if !d.Shared {
				n.t.Errorf("Check of %s alone: %s: %s", one.Key, d.Owner, d.Text)
			}
		}
		if err != nil {
			n.t.Error(err)
		}
	}
}

// testCancelledChange wants Rewrite to recover a cancelled change, which may or
// may not have been made.
func testCancelledChange(n *node) {
	a := n.pod(1, "8080:80")
	n.add(a)
	was := n.Ruleset()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b := n.pod(2, "8081:80")
	_, err := n.Backend.Apply(ctx, backend.Change{
		Add: []*hostport.Attachment{b}, Before: Fingerprint(n.held), After: Fingerprint([]*hostport.Attachment{a, b}),
		Seen: n.seen, Others: Others(n.held),
	})
	if err == nil {
		n.held = append(n.held, b)
		n.agrees()
		return
	}
	n.rewrite()
	n.agrees()
	if netns.SortedLines(was) != netns.SortedLines(n.Ruleset()) {
		n.same(was, "Rewrite after a change that was cancelled")
	}
}
