package nftables

import (
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// batch collects the messages of one transaction. An object that cannot be encoded makes
// sending it fail: the library keeps the error.
type batch struct {
	conn  *nftables.Conn
	table *nftables.Table
}

// dropTable deletes the table with all its objects, or does nothing if there is none:
// adding it first makes the deletion safe. (A message that ignores a missing table exists
// only from Linux 6.3 on.)
func (b *batch) dropTable() {
	b.conn.AddTable(b.table)
	b.conn.DelTable(b.table)
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
