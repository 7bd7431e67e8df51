package nftables

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/nfnetlink"
)

// seen is how a change left the kernel, for the next one.
type seen struct {
	// generation of the ruleset, 0 if not known: the kernel counts the commits of
	// a network namespace, whoever makes them, and a transaction may say which
	// generation it is for (Linux 4.12).
	generation uint32
	table      string // its handle
}

func (s seen) String() string { return fmt.Sprintf("%d %s", s.generation, s.table) }

// parseSeen returns nothing known for a text of another version.
func parseSeen(text string) (s seen) {
	generation, handle, _ := strings.Cut(text, " ")
	if n, err := strconv.ParseUint(generation, 10, 32); err == nil {
		s = seen{uint32(n), handle}
	}
	return s
}

// generation asks for the ruleset's generation, 0 if it cannot be told.
func (b *Backend) generation() uint32 {
	gen, err := new(nftables.Conn).GetGen()
	if err != nil {
		return 0 // the commit will tell
	}
	return gen.ID
}

// commitAt commits to generation g if that is still the ruleset's: only then what
// was read at g is known to hold, and the generation after it is worth noting.
// Where others commit all the time the change does not wait for a pause of
// theirs. It returns the new generation, 0 if others may have committed since.
func (b *Backend) commitAt(ctx context.Context, build func(*batch), g uint32) (uint32, error) {
	next, err := b.commitOnce(build, g)
	if nfnetlink.Transient(err) {
		return 0, nfnetlink.Retry(ctx, func() error { return b.send(tableName, build, 0) })
	}
	return next, err
}

// commitOnce commits to generation at, unless that is 0, and returns the new one as
// commitAt does.
func (b *Backend) commitOnce(build func(*batch), at uint32) (uint32, error) {
	if err := b.send(tableName, build, at); err != nil || at == 0 {
		return 0, err
	}
	// It asks and does not count: what was written may have been there already, and
	// then the kernel commits nothing. With a generation too many on record, the next
	// foreign commit would look like ours.
	if g := b.generation(); g == at || g == at+1 {
		return g, nil
	}
	return 0, nil
}

// verify reads whether the table is the one that s and the delta's before tell
// of, and notes its handle. It finds a flushed table, which keeps its elements,
// a table that was restored from an older snapshot, and rules of another
// version of this package. Elements answer for themselves when they are
// written, except those of a set that is deleted whole.
func (b *Backend) verify(ctx context.Context, d delta, s *seen) error {
	if d.creates() {
		return nil // that fails if there is a table
	}
	gone := only[set](d.gone)
	have, err := b.read(ctx, func(name string) bool {
		return slices.ContainsFunc(gone, func(s set) bool { return s.name == name })
	})
	if err != nil {
		return err
	}
	_, strangers, _ := pair(d.gone, have)
	if es := only[element](strangers); len(es) > 0 {
		return fmt.Errorf("%w: %s is not on record", backend.ErrDrift, es[0])
	}
	want := d.before
	if !slices.ContainsFunc(want, is[table]) {
		want = slices.Concat(base(clientSetsIn(have)), want)
	}
	want = slices.DeleteFunc(slices.Clone(want), is[element])
	want[0] = table{handle: s.table}
	if found := compare(have, want, func(object) bool { return false }); len(found) > 0 {
		return fmt.Errorf("%w: %s", backend.ErrDrift, found[0].Text)
	}
	s.table = only[table](have)[0].handle
	return nil
}
