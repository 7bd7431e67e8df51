package iptables

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// A chain that nothing jumps to holds the name of the rules' revision. Every
// change asks for the latest name and adds another, in one transaction with the
// rules themselves. Where somebody restored a ruleset of another time, the name
// is not there, the transaction fails, and everything is rewritten: otherwise
// pods that came since would stay without their ports, and those that went
// would have them again.
const revisionChain = prefix + "REV"

// maxRevisions bounds the names in the chain. Those of before are left there,
// because in the nf_tables variant a transaction that deletes waits for a grace
// period of the kernel (14 ms on Linux 6.18, where an ADD takes 5). They go with
// the next change that deletes anyway, or when they are so many.
const maxRevisions = 64

// revision is the latest name, and how many the chain holds; the zero value is
// that of no rules.
type revision struct {
	name string
	held int
}

// next is a new revision, after as many as are kept.
func (r revision) next(kept int) revision {
	return revision{name: fmt.Sprintf("%015x", rand.Uint64()>>4), held: kept + 1}
}

// rule holds the name as that of an interface. ip6tables-legacy -C (1.8.9) does
// not look into matches, so a comment would not do.
func (r revision) rule() rule { return rule{revisionChain, "-i " + r.name} }

// revisionWord is the key under which a family's revision is remembered.
func revisionWord(f hostport.Family) string { return fmt.Sprintf("revision/%d", f) }

// recall is the revision that the kernel was left with; ok is false if it is
// not known.
func (b *Backend) recall(f hostport.Family) (r revision, ok bool, err error) {
	word, err := b.memory.Recall(revisionWord(f))
	if err != nil {
		return r, false, fmt.Errorf("recall how %s was left: %w", f, err)
	}
	n, err := fmt.Sscanf(word, "%15s %d", &r.name, &r.held)
	return r, n == 2 && err == nil, nil
}

// remember notes the revision that the kernel was left with.
func (b *Backend) remember(f hostport.Family, r revision) {
	switch {
	case b.memory == nil:
	case r == revision{}:
		b.memory.Remember(revisionWord(f), "")
	default:
		b.memory.Remember(revisionWord(f), fmt.Sprintf("%s %d", r.name, r.held))
	}
}

// revise adds to a change's scripts what takes the revision along. It returns
// the one after the change, and errUnknown where that before is not known.
func (b *Backend) revise(f hostport.Family, c hostport.Change, s *scripts) (after revision, err error) {
	if b.memory == nil || !s.changes() {
		return after, nil
	}
	var before revision
	if s.base.before {
		known := false
		if before, known, err = b.recall(f); err != nil {
			return after, err
		}
		if !known {
			return after, errUnknown
		}
		s.nat.check = append(s.nat.check, before.rule())
	} else {
		s.nat.declare = append(s.nat.declare, revisionChain)
	}
	if !s.base.after {
		s.nat.drop = append(s.nat.drop, revisionChain)
		return after, nil
	}
	if before.held >= maxRevisions || len(c.Remove) > 0 {
		s.nat.flush = append(s.nat.flush, revisionChain)
		before.held = 0
	}
	after = before.next(before.held)
	s.nat.put(after.rule())
	return after, nil
}

// checkRevision compares the revision in the kernel with that remembered.
func (b *Backend) checkRevision(c *check) error {
	if b.memory == nil {
		return nil
	}
	want, known, err := b.recall(c.family)
	if err != nil || !known {
		return err
	}
	have := c.there.of(natTable).rules[revisionChain]
	if len(have) != want.held || !slices.Contains(have, want.rule().spec) {
		c.differ("table %s: chain %s does not hold revision %s as the last of %d: the rules are of another time",
			natTable, revisionChain, want.name, want.held)
	}
	return nil
}
