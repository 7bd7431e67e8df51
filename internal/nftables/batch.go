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
	if usedBy(all)[shareBase] {
		b.create(all)
	}
}

// create makes the table, which must not be there. It deletes nothing: a
// transaction with deletions waits for a grace period of the kernel, even if
// what it deletes is its own.
func (b *batch) create(all []*hostport.Attachment) {
	b.conn.CreateTable(b.table)
	s := shapeOf(usedBy(all))
	for _, d := range s.sets() {
		b.addSet(d)
	}
	for _, c := range s.chains() {
		b.addChain(c)
	}
	b.addAttachments(all)
}

// addAttachments adds what is not shared: the chains of conditions and the
// elements. The elements of all go together, a set at a time, so that a
// message holds as many as it can.
func (b *batch) addAttachments(all []*hostport.Attachment) {
	var es []element
	for _, a := range all {
		for _, c := range conditionChains(a) {
			b.addChain(c)
		}
		es = append(es, elements(a)...)
	}
	b.eachSet(es, b.conn.SetAddElements)
}

// removeAttachments is the reverse. An element that two of them share is
// deleted once.
func (b *batch) removeAttachments(all []*hostport.Attachment) {
	var es []element
	for _, a := range all {
		es = append(es, elements(a)...)
	}
	b.eachSet(distinct(es), b.conn.SetDeleteElements)
	for _, a := range all {
		for _, c := range conditionChains(a) {
			b.conn.DelChain(&nftables.Chain{Table: b.table, Name: c.name})
		}
	}
}

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
		m.VerdictData = verdict(expr.VerdictJump, e.jump)
	}
	return m
}

func (b *batch) addSet(d set) {
	s := &nftables.Set{Table: b.table, Name: d.name, Counter: d.counters}
	var err error
	if s.KeyType, err = nftables.ConcatSetType(d.key...); err != nil {
		b.fail(fmt.Errorf("declare set %s: %w", d.name, err))
	}
	if len(d.data) > 0 {
		s.IsMap = true
		if s.DataType, err = nftables.ConcatSetType(d.data...); err != nil {
			b.fail(fmt.Errorf("declare map %s: %w", d.name, err))
		}
	}
	if err := b.conn.AddSet(s, nil); err != nil {
		b.fail(fmt.Errorf("declare set %s: %w", d.name, err))
	}
}

func (b *batch) dropSet(name string) {
	b.conn.DelSet(&nftables.Set{Table: b.table, Name: name})
}

func (b *batch) addChain(c chain) {
	n := &nftables.Chain{Table: b.table, Name: c.name}
	if c.hook != nil {
		policy := nftables.ChainPolicyAccept
		n.Type, n.Hooknum, n.Priority, n.Policy = c.hook.kind, &c.hook.number, &c.hook.priority, &policy
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
