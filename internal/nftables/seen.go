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

// seen identifies the state of the kernel after a change, for the next one.
type seen struct {
	// generation of the ruleset, 0 if unknown: the kernel counts the commits in a network
	// namespace, and a transaction may specify the generation it is for (Linux 4.12).
	generation uint32
	// handles are the table's, which changes when it is restored (Linux 4.16), and that of the
	// rule in chainUnmapped, which changes whenever a rewrite writes something.
	handles string
}

func (s seen) String() string { return fmt.Sprintf("%d %s", s.generation, s.handles) }

// parseSeen returns the zero seen for a text of another version.
func parseSeen(text string) (s seen) {
	generation, handles, _ := strings.Cut(text, " ")
	if n, err := strconv.ParseUint(generation, 10, 32); err == nil {
		s = seen{uint32(n), handles}
	}
	return s
}

// generation returns the ruleset's generation, 0 if it cannot be read.
func (b *Backend) generation() uint32 {
	gen, err := new(nftables.Conn).GetGen()
	if err != nil {
		return 0 // the commit will fail and say why
	}
	return gen.ID
}

// commit commits only if g is still the current generation, or always if g is 0: only then
// is what was read at g still true. If other programs commit meanwhile, it fails, or with
// always, commits to any generation instead of waiting for a pause. It returns the new
// generation, 0 if others may have committed since g.
func (b *Backend) commit(ctx context.Context, build func(*batch), g uint32, always bool) (uint32, error) {
	err := b.send(tableName, build, g)
	if always && nfnetlink.Transient(err) {
		return 0, nfnetlink.Retry(ctx, func() error { return b.send(tableName, build, 0) })
	}
	// Read the generation instead of adding 1: what was written may have existed
	// already, and then the kernel commits nothing. If we recorded a later generation
	// than the kernel's, the next foreign commit would look like ours.
	if next := b.generation(); err == nil && g != 0 && (next == g || next == g+1) {
		return next, nil
	}
	return 0, err
}

// verify checks that the table is the one of s and of d.before, and stores its handles in
// s. It detects a flushed table, which keeps its elements, a table that was restored from
// a snapshot or rewritten, and rules of another version. The kernel checks elements when
// they are written, except those of a set that is deleted as a whole.
func (b *Backend) verify(ctx context.Context, d delta, s *seen) error {
	if d.creates() {
		return nil // the transaction fails if there is a table
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
	want[0] = table{handles: s.handles}
	if found := compare(have, want, func(object) bool { return false }); len(found) > 0 {
		return fmt.Errorf("%w: %s", backend.ErrDrift, found[0].Text)
	}
	s.handles = handlesIn(have)
	return nil
}
