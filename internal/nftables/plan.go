package nftables

import (
	"fmt"
	"slices"

	"github.com/google/nftables"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// plan is a change in elements, chains and sets.
type plan struct {
	remove, add, keep                   []element
	removeChains, addChains, keepChains []chain

	// first says that the table is not there before the change, last that it
	// goes with it.
	first, last bool
	// before and after are sets of clients in use: those that matter to the
	// change, or, with reshape, all.
	before, after clientSets
	// reshape says that a set comes or goes, and its rule with it.
	reshape bool
}

// newPlan compares both sides of a change. It asks for the other attachments
// only if the change has clients of a prefix length on one side alone: nearly
// always the first record that is read uses it too.
func newPlan(c backend.Change) (plan, error) {
	p := plan{
		first: c.Before == hostport.Fingerprint{}, last: c.After == hostport.Fingerprint{},
		before: clientSetsOf(c.Remove), after: clientSetsOf(c.Add),
	}
	p.remove, p.add, p.keep = split(elements(c.Remove...), elements(c.Add...), func(e element) element { return e })
	// The name of a chain of conditions stands for its rules.
	p.removeChains, p.addChains, p.keepChains = split(conditionChains(c.Remove...), conditionChains(c.Add...),
		func(c chain) string { return c.name })
	changed := p.before.without(p.after).union(p.after.without(p.before))
	if p.first || p.last || len(changed) == 0 {
		return p, nil
	}
	used := make(clientSets)
	found, err := c.Others.Any(func(a *hostport.Attachment) bool {
		used.add(a)
		return len(changed.without(used)) == 0
	})
	if err != nil {
		return plan{}, fmt.Errorf("look for other users of client sets: %w", err)
	}
	p.before, p.after = p.before.union(used), p.after.union(used)
	p.reshape = !found // and all others were read
	return p, nil
}

// split compares what is before a change and after it. What has the same identity
// on both sides is to be left in place, with its counters.
func split[T any, ID comparable](before, after []T, id func(T) ID) (remove, add, keep []T) {
	had := make(map[ID]bool, len(before))
	for _, x := range before {
		had[id(x)] = true
	}
	for _, x := range after {
		if had[id(x)] {
			keep = append(keep, x)
			delete(had, id(x))
		} else {
			add = append(add, x)
		}
	}
	return slices.DeleteFunc(before, func(x T) bool { return !had[id(x)] }), add, keep
}

// empty reports that neither side has rules: a batch without messages is not
// sent.
func (p plan) empty() bool { return len(p.remove)+len(p.add)+len(p.keep) == 0 }

// writes reports whether the transaction changes anything. The kernel counts
// no commit for one that does not.
func (p plan) writes() bool { return len(p.remove)+len(p.add) > 0 }

// write puts the change into a batch. Only what deletes something waits for a
// grace period of the kernel, when the socket is closed (0.4 ms on Linux 6.18,
// more with many processors). That is why the table holds no fingerprint: the
// next ADD would have to delete the last one.
func (p plan) write(b *batch) {
	if p.last {
		b.dropTable()
		return
	}
	if p.first {
		b.create(p.after)
	}
	b.deleteElements(p.remove)
	for _, c := range p.removeChains {
		b.conn.DelChain(&nftables.Chain{Table: b.table, Name: c.name})
	}
	if p.reshape {
		p.writeShape(b)
	}
	for _, c := range p.addChains {
		b.addChain(c)
	}
	// What is kept is written once more: it costs nothing where it is there, and
	// puts back what somebody deleted.
	b.addElements(slices.Concat(p.keep, p.add))
}

// writeShape adds the sets that come, then writes the rules, always in the same
// order, then deletes the sets that nothing refers to any more.
func (p plan) writeShape(b *batch) {
	for _, c := range p.after.without(p.before).sorted() {
		b.addSet(c.declare())
	}
	b.refill(p.after.chain())
	for _, c := range p.before.without(p.after).sorted() {
		b.conn.DelSet(&nftables.Set{Table: b.table, Name: c.name()})
	}
}
