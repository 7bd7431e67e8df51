package nftables

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// batch collects the messages of one transaction. The kernel carries out all
// of them or none.
type batch struct {
	conn  *nftables.Conn
	table *nftables.Table
	err   error
}

func newBatch(conn *nftables.Conn, table string) *batch {
	return &batch{conn: conn, table: &nftables.Table{Name: table, Family: nftables.TableFamilyINet}}
}

func (b *batch) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// dropTable removes the table with all that is in it, or does nothing if there
// is none: adding it first makes the deletion safe. (A message that destroys
// without complaint is known to kernels from 6.3 only.)
func (b *batch) dropTable() {
	b.conn.AddTable(b.table)
	b.conn.DelTable(b.table)
}

// rewrite replaces the table by the rules of these attachments.
func (b *batch) rewrite(all []*hostport.Attachment) {
	b.dropTable()
	if es := elements(all...); len(es) > 0 {
		b.create(clientSetsOf(all))
		for _, c := range conditionChains(all...) {
			b.addChain(c)
		}
		b.addElements(es)
	}
}

// create makes the table with its base, and fails if there is one.
func (b *batch) create(clients clientSets) {
	b.conn.CreateTable(b.table)
	b.addBase(clients)
}

func (b *batch) addBase(clients clientSets) {
	for _, d := range sets(clients) {
		b.addSet(d)
	}
	for _, c := range chains(clients) {
		b.addChain(c)
	}
}

// addElements adds elements, a set at a time, so that a message holds as many
// as it can. One that is there already is left alone if it leads to the same,
// else the transaction fails.
func (b *batch) addElements(es []element) { b.eachSet(es, b.conn.SetAddElements) }

// deleteElements fails the transaction if one is missing.
func (b *batch) deleteElements(es []element) { b.eachSet(es, b.conn.SetDeleteElements) }

func (b *batch) eachSet(es []element, do func(*nftables.Set, []nftables.SetElement) error) {
	var order []string
	bySet := make(map[string][]nftables.SetElement)
	for _, e := range es {
		if _, ok := bySet[e.set]; !ok {
			order = append(order, e.set)
		}
		bySet[e.set] = append(bySet[e.set], e.message())
	}
	for _, name := range order {
		if err := do(&nftables.Set{Table: b.table, Name: name}, bySet[name]); err != nil {
			b.fail(fmt.Errorf("encode elements of %s: %w", name, err))
		}
	}
}

func (e element) message() nftables.SetElement {
	m := nftables.SetElement{Key: []byte(e.key), Val: []byte(e.value), Comment: e.comment}
	if e.jump != "" {
		m.VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: e.jump}
	}
	return m
}

func (b *batch) addSet(d set) {
	s := &nftables.Set{
		Table: b.table, Name: d.name, Counter: d.counters,
		KeyType: d.key, DataType: d.data, IsMap: d.kind() == "map",
	}
	if err := b.conn.AddSet(s, nil); err != nil {
		b.fail(fmt.Errorf("declare %s %s: %w", d.kind(), d.name, err))
	}
}

func (b *batch) addChain(c chain) {
	n := &nftables.Chain{Table: b.table, Name: c.name}
	if h := c.hook; h != (hook{}) {
		n.Type, n.Hooknum, n.Priority, n.Policy = h.kind, &h.number, &h.priority, &h.policy
	}
	b.conn.AddChain(n)
	b.addRules(c)
}

func (b *batch) addRules(c chain) {
	for _, r := range c.rules {
		m := &nftables.Rule{Table: b.table, Chain: &nftables.Chain{Name: c.name}, Exprs: r.exprs}
		if r.comment != "" {
			m.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
		}
		b.conn.AddRule(m)
	}
}

// refill replaces the rules of a chain that exists.
func (b *batch) refill(c chain) {
	b.conn.FlushChain(&nftables.Chain{Table: b.table, Name: c.name})
	b.addRules(c)
}
