package nftables

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// plan is a change in objects.
type plan struct {
	// before is what the table holds of the change: of its attachments, and of the
	// base, if reshape says that a set of clients comes or goes, and its rule.
	before  []object
	reshape bool
	// first says that the table is not there before the change, last that it is
	// deleted before anything comes.
	first, last bool

	gone, come []object
	refill     []chain  // that get other rules
	kept       []object // elements
}

// newPlan compares both sides of a change. It asks for the other attachments
// only if the change has clients of a prefix length on one side alone: nearly
// always the first record that is read uses the same ones.
func newPlan(c backend.Change) (plan, error) {
	p := plan{first: c.Before == hostport.Fingerprint{}, last: c.After == hostport.Fingerprint{}}
	before, was := own(c.Remove...)
	after, is := own(c.Add...)
	p.before = before
	if len(p.before)+len(after) == 0 {
		return p, nil
	}
	if !p.first && !p.last && !maps.Equal(was, is) {
		wanted, used := maps.Clone(was), make(clientSets)
		maps.Copy(wanted, is)
		found, err := c.Others.Any(func(a *hostport.Attachment) bool {
			_, clients := own(a)
			maps.Copy(used, clients)
			maps.DeleteFunc(wanted, func(c clientSet, _ bool) bool { return clients[c] })
			return len(wanted) == 0
		})
		if err != nil {
			return plan{}, fmt.Errorf("look for other users of client sets: %w", err)
		}
		p.reshape = !found // and all others were read
		maps.Copy(was, used)
		maps.Copy(is, used)
	}
	if p.reshape {
		p.before = slices.Concat(base(was), p.before)
	}
	if p.first || p.reshape {
		after = slices.Concat(base(is), after)
	}
	p.compare(after)
	return p, nil
}

func (p *plan) compare(after []object) {
	var both [][2]object
	p.gone, p.come, both = pair(p.before, after)
	for _, x := range both {
		same := len(x[1].differs(x[0])) == 0
		switch o := x[1].(type) {
		case element:
			if same {
				p.kept = append(p.kept, o)
			} else {
				p.gone, p.come = append(p.gone, x[0]), append(p.come, o)
			}
		case chain:
			if !same {
				p.refill = append(p.refill, o)
			}
		}
	}
}

// writes reports whether the transaction changes anything. The kernel counts
// no commit for one that does not.
func (p plan) writes() bool { return len(p.gone)+len(p.come) > 0 }

// empty reports that neither side has rules: a batch without messages is not
// sent.
func (p plan) empty() bool { return !p.writes() && len(p.kept) == 0 }

// write puts the change into a batch. Only what deletes something waits for a
// grace period of the kernel, when the socket is closed (0.4 ms on Linux 6.18,
// more with many processors). That is why the table holds no fingerprint: the
// next ADD would have to delete the last one.
func (p plan) write(b *batch) {
	if p.last {
		b.dropTable()
		p.gone = nil
	}
	b.eachSet(p.gone, b.conn.SetDeleteElements)
	for _, c := range only[chain](p.gone) {
		b.conn.DelChain(&nftables.Chain{Table: b.table, Name: c.name})
	}
	// What is kept is written once more: it costs nothing where it is there, and
	// puts back what somebody deleted.
	b.add(slices.Concat(p.come, p.kept))
	for _, c := range p.refill {
		b.conn.FlushChain(&nftables.Chain{Table: b.table, Name: c.name})
		b.addRules(c)
	}
	for _, s := range only[set](p.gone) { // to which nothing refers any more
		b.conn.DelSet(&nftables.Set{Table: b.table, Name: s.name})
	}
}
