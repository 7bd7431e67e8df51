package nftables

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/nfnetlink"
)

// seen is how a change left the kernel, for the next one.
type seen struct {
	// generation of the ruleset, 0 if not known: the kernel counts the commits of
	// a network namespace, whoever makes them, and a transaction may say which
	// generation it is for (Linux 4.12).
	generation uint32
	// table is the handle of our table, "" if not known. The kernel never gives
	// one out twice: a table that somebody restored has another one, whatever is
	// in it (Linux 4.16).
	table string
}

func (s seen) String() string { return fmt.Sprintf("%d %s", s.generation, s.table) }

// parseSeen returns nothing known for a text of another version.
func parseSeen(text string) seen {
	number, table, _ := strings.Cut(text, " ")
	g, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return seen{}
	}
	return seen{uint32(g), table}
}

// generation asks for the ruleset's generation, 0 if it cannot be told.
func (b *Backend) generation() uint32 {
	conn, err := b.conn()
	if err != nil {
		return 0 // the commit will tell
	}
	gen, err := conn.GetGen()
	if err != nil {
		return 0
	}
	return gen.ID
}

// settle commits to generation g if that is still the ruleset's: only then what
// was read at g is known to hold, and the generation after it is worth noting.
// Where others commit all the time the change does not wait for a pause of
// theirs. It returns the new generation, 0 if others may have committed since.
func (b *Backend) settle(ctx context.Context, build func(*batch), g uint32) (uint32, error) {
	if g != 0 {
		err := b.send(build, g)
		if err == nil {
			return b.settled(g), nil
		}
		if !nfnetlink.Transient(err) {
			return 0, err
		}
	}
	return 0, nfnetlink.Retry(ctx, func() error { return b.send(build, 0) })
}

// settled returns the generation after a transaction for generation g, 0 where
// others have committed since. It asks and does not count: what was written may
// have been there already, and then the kernel commits nothing. With a
// generation too many on record, the next foreign commit would look like ours.
func (b *Backend) settled(g uint32) uint32 {
	if now := b.generation(); now == g || now == g+1 {
		return now
	}
	return 0
}

// verify reads whether the table is the one that s and the plan's before tell
// of, and notes its handle. It finds a flushed table, which keeps its elements,
// a table that was restored from an older snapshot, and rules of another
// version of this package. Elements answer for themselves when they are
// written, except those of a set that is deleted whole.
func (b *Backend) verify(ctx context.Context, p plan, s *seen) error {
	if p.first {
		return nil // creating the table fails if there is one
	}
	gone := p.before.without(p.after).declarations()
	if p.last {
		gone = sets(p.before)
	} else if err := b.verifyRules(ctx, p, s); err != nil {
		return err
	}
	ours := make(map[string]bool)
	for _, e := range p.remove {
		ours[e.id()] = true
	}
	for _, d := range gone {
		es, err := b.dumpElements(ctx, d.name)
		if err != nil {
			return err
		}
		for _, e := range es {
			if !ours[e.id()] {
				return fmt.Errorf("%w: %s is not on record", backend.ErrDrift, e)
			}
		}
	}
	return nil
}

func (b *Backend) verifyRules(ctx context.Context, p plan, s *seen) error {
	table, err := b.tableHandle(ctx)
	if err != nil {
		return err
	}
	if table == "" {
		return fmt.Errorf("%w: table inet %s is missing", backend.ErrDrift, tableName)
	}
	if s.table != "" && s.table != table {
		return fmt.Errorf("%w: table inet %s was restored from a snapshot", backend.ErrDrift, tableName)
	}
	s.table = table
	declared, err := b.dumpSets(ctx)
	if err != nil {
		return err
	}
	have, err := b.dumpRules(ctx)
	if err != nil {
		return err
	}
	clients := clientSetsIn(declared)
	if len(p.before.without(clients)) > 0 || p.reshape && len(clients.without(p.before)) > 0 {
		return fmt.Errorf("%w: other sets of clients", backend.ErrDrift)
	}
	for _, c := range append(chains(clients), p.keepChains...) {
		if !c.same(have[c.name]) {
			return fmt.Errorf("%w: chain %s differs", backend.ErrDrift, c.name)
		}
	}
	return nil
}
