package nftables

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// delta is a change as objects of the table.
type delta struct {
	// before is what the table should hold before the change: the objects of its
	// attachments, and the base if a set of clients is added or deleted.
	before []object
	// gone and come are what is deleted and written, the whole table if it is among
	// them. A chain whose rules change is only in come.
	gone, come []object
	kept       []object // elements
}

// newDelta compares both sides of a change. With ask it reads other attachments if a
// set of clients is used on one side only: nearly always the first record uses the
// same ones. Without ask it assumes that others use these sets too.
func newDelta(c backend.Change, ask bool) (delta, error) {
	before, was := wantObjects(c.Remove...)
	after, will := wantObjects(c.Add...)
	if len(before)+len(after) == 0 {
		return delta{}, nil
	}
	first, last := c.Before == hostport.Fingerprint{}, c.After == hostport.Fingerprint{}
	reshape := first || last
	if ask && !reshape && !maps.Equal(was, will) {
		found, err := c.Others.Any(func(a *hostport.Attachment) bool {
			_, clients := wantObjects(a)
			maps.Copy(was, clients)
			maps.Copy(will, clients)
			return maps.Equal(was, will)
		})
		if err != nil {
			return delta{}, fmt.Errorf("look for other users of client sets: %w", err)
		}
		reshape = !found // and all others were read
	}
	if reshape && !first {
		before = slices.Concat(base(was), before)
	}
	if reshape && !last {
		after = slices.Concat(base(will), after)
	}
	return difference(before, after), nil
}

// difference returns what turns one list of objects into another: the whole table, if one
// differs in what the kernel cannot change.
func difference(before, after []object) delta {
	gone, come, both := pair(before, after)
	d := delta{before: before, gone: gone, come: come}
	for _, x := range both {
		same, isElement := x[1].differs(x[0]) == "", is[element](x[1])
		was, isChain := x[0].(chain) // the kernel can change its rules, but not its hook
		now, _ := x[1].(chain)
		switch {
		case same && isElement:
			d.kept = append(d.kept, x[1])
		case isElement:
			d.gone, d.come = append(d.gone, x[0]), append(d.come, x[1])
		case !same && (!isChain || was.hook != now.hook):
			return delta{before: before, gone: []object{table{}}, come: after}
		case !same:
			d.come = append(d.come, x[1])
		}
	}
	return d
}

// first returns what of a change to write first: all of it, or all but the chains and sets
// that go. A packet that is being evaluated while a transaction commits follows the earlier
// rules to their end, but finds the sets as they are after it (nft_do_chain and
// nft_genmask_cur of Linux). So what these rules use must not go together with them.
func (d delta) first() delta {
	if slices.ContainsFunc(d.gone, is[table]) || !d.writes() {
		return d
	}
	going := make(map[string]bool)
	for _, s := range only[set](d.gone) {
		going[s.name] = true
	}
	first, rest := delta{come: d.come}, delta{}
	for _, o := range d.gone {
		switch e, ok := o.(element); {
		case ok && !going[e.set]:
			first.gone = append(first.gone, o)
		case !ok || e.jump != "": // others go with their set
			rest.gone = append(rest.gone, o)
		}
	}
	if !first.writes() {
		first = rest
	}
	// The rule of this chain gets another handle: see seen.
	mark := unmapped()
	if !slices.ContainsFunc(first.come, func(o object) bool { return o.id() == mark.id() }) {
		first.come = append(first.come, mark)
	}
	return first
}

// creates reports whether the change creates the table.
func (d delta) creates() bool { return slices.ContainsFunc(d.come, is[table]) }

// writes reports whether the transaction changes anything. The kernel counts
// no commit if it does not.
func (d delta) writes() bool { return len(d.gone)+len(d.come) > 0 }

// write adds the change to a batch. Only a transaction that deletes something waits
// for a grace period of the kernel (docs/design.md).
func (d delta) write(b *batch) {
	if slices.ContainsFunc(d.gone, is[table]) {
		// If there is none, adding it first makes the deletion safe. (A message that
		// ignores a missing table exists only from Linux 6.3 on.)
		b.conn.AddTable(b.table)
		b.conn.DelTable(b.table)
		d.gone = nil
	}
	b.eachSet(d.gone, b.conn.SetDeleteElements)
	// Kept elements are written again: that costs nothing if they exist, and
	// restores what another program deleted.
	b.add(slices.Concat(d.come, d.kept))
	// Chains and sets are no longer referenced, except by other chains that go.
	for _, c := range only[chain](d.gone) {
		b.conn.FlushChain(&nftables.Chain{Table: b.table, Name: c.name})
	}
	for _, c := range only[chain](d.gone) {
		b.conn.DelChain(&nftables.Chain{Table: b.table, Name: c.name})
	}
	for _, s := range only[set](d.gone) {
		b.conn.DelSet(&nftables.Set{Table: b.table, Name: s.name})
	}
}

// batch collects the messages of one transaction. An object that cannot be encoded makes
// sending it fail: the library keeps the error.
type batch struct {
	conn  *nftables.Conn
	table *nftables.Table
}

// add adds the table, sets, chains with exactly these rules, and elements last. It fails
// the transaction if the table exists, or an element with another value.
func (b *batch) add(objects []object) {
	for _, o := range objects {
		switch o := o.(type) {
		case table:
			b.conn.CreateTable(b.table)
		case set:
			_ = b.conn.AddSet(&nftables.Set{
				Table: b.table, Name: o.name, Counter: o.counters,
				KeyType: o.key, DataType: o.data, IsMap: o.data != (nftables.SetDatatype{}),
			}, nil)
		case chain:
			n := &nftables.Chain{Table: b.table, Name: o.name}
			if h := o.hook; h != (hook{}) {
				n.Type, n.Hooknum, n.Priority, n.Policy = h.kind, &h.number, &h.priority, &h.policy
			}
			b.conn.AddChain(n)
			b.conn.FlushChain(n)
			for _, r := range o.rules {
				m := &nftables.Rule{Table: b.table, Chain: n, Exprs: r.exprs}
				if r.comment != "" {
					m.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
				}
				b.conn.AddRule(m)
			}
		}
	}
	b.eachSet(objects, b.conn.SetAddElements)
}

// eachSet adds or deletes the elements among some objects, a set at a time, so that
// a message holds as many as possible. Deleting a missing one fails the transaction.
func (b *batch) eachSet(objects []object, do func(*nftables.Set, []nftables.SetElement) error) {
	bySet := make(map[string][]nftables.SetElement)
	for _, e := range only[element](objects) {
		m := nftables.SetElement{Key: []byte(e.key), Val: []byte(e.value), Comment: e.comment}
		if e.jump != "" {
			m.VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: e.jump}
		}
		bySet[e.set] = append(bySet[e.set], m)
	}
	for _, name := range slices.Sorted(maps.Keys(bySet)) {
		_ = do(&nftables.Set{Table: b.table, Name: name}, bySet[name])
	}
}
