// Package nftables is the backend that programs attachments as elements of nftables maps,
// in table "inet hostport", over netlink. docs/design.md has the rules, and why they are
// so. The package starts no process and keeps nothing between calls.
package nftables

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Backend programs attachments in the calling thread's network namespace.
type Backend struct {
	// Log receives what an operator should know.
	Log *slog.Logger
}

// Apply carries out one change in one transaction. If there was a commit to the
// ruleset since c.Seen, it reads the rules before, a fixed number.
func (b *Backend) Apply(ctx context.Context, c backend.Change) (string, error) {
	s := parseSeen(c.Seen)
	// An ADD assumes that the sets of its clients exist: the kernel fails with ENOENT if
	// one does not.
	asked := len(c.Remove) > 0 || s.generation == 0
	d, err := newDelta(c, asked)
	if err != nil || !d.writes() && len(d.kept) == 0 { // a batch without messages is not sent
		return c.Seen, err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if s.generation != 0 {
		err = b.send(tableName, d.write, s.generation)
		if err == nil && d.writes() {
			s.generation++
		}
	}
	if s.generation == 0 || nfnetlink.Transient(err) || !asked && nfnetlink.HasErrno(err, unix.ENOENT) {
		if !asked {
			if d, err = newDelta(c, true); err != nil {
				return "", err
			}
		}
		s.generation = b.generation()
		if err := b.verify(ctx, d, &s); err != nil {
			return "", err
		}
		s.generation, err = b.commit(ctx, d.write, s.generation, true)
	}
	if err != nil {
		return "", b.reason(ctx, err, d.creates(), backend.ErrDrift)
	}
	if d.creates() {
		s.table, err = b.tableHandle(ctx)
	}
	return s.String(), err
}

// Rewrite replaces the table in one transaction. A table that is right already is kept,
// with its counters. If an attachment's conditions cannot be parsed, its ports are closed
// to all clients. The table is for both families, so except must be empty.
func (b *Backend) Rewrite(ctx context.Context, all []*hostport.Attachment, _ hostport.Fingerprint, except ...hostport.Family) (_ string, was []*hostport.Attachment, err error) {
	if len(except) > 0 {
		return "", nil, fmt.Errorf("rewrite table %s: it cannot be left as it is for %s alone", tableName, except[0])
	}
	for _, d := range b.unreadable(all) {
		b.Log.Warn("host ports are closed", "attachment", d.Owner, "reason", d.Text)
	}
	var s seen
	want := contents(nil, all)
	replace := delta{gone: []object{table{}}, come: want}.write
	for n := range 3 { // another program may commit between the read and the write, or all the time
		s.generation = b.generation()
		have, unread := b.read(ctx, nil)
		was = append(was, ownersIn(have)...)
		if err = nil; unread == nil && len(compare(have, want, func(object) bool { return true })) == 0 {
			break
		}
		if s.generation, err = b.commit(ctx, replace, s.generation, n == 2); !nfnetlink.Transient(err) {
			break
		}
	}
	if err != nil {
		return "", was, fmt.Errorf("rewrite table %s: %w", tableName, b.reason(ctx, err, true, nil))
	}
	s.table, err = b.tableHandle(ctx)
	return s.String(), was, err
}

// send sends one transaction on a table, for generation g of the ruleset unless
// that is 0.
func (b *Backend) send(table string, build func(*batch), g uint32) error {
	t := &batch{new(nftables.Conn), &nftables.Table{Name: table, Family: nftables.TableFamilyINet}}
	build(t)
	if err := t.conn.FlushWithGenID(g); err != nil {
		return fmt.Errorf("commit to table %s: %w", table, err)
	}
	return nil
}

// seen identifies the state of the kernel after a change, for the next one.
type seen struct {
	// generation of the ruleset, 0 if unknown: the kernel counts the commits in a network
	// namespace, and a transaction may specify the generation it is for (Linux 4.12).
	generation uint32
	table      string // its handle: a restored table has another one (Linux 4.16)
}

func (s seen) String() string { return fmt.Sprintf("%d %s", s.generation, s.table) }

// parseSeen returns the zero seen for a text of another version.
func parseSeen(text string) (s seen) {
	generation, table, _ := strings.Cut(text, " ")
	if n, err := strconv.ParseUint(generation, 10, 32); err == nil {
		s = seen{uint32(n), table}
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

// verify checks that the table is the one of s and of d.before, and stores its handle in
// s. It detects a flushed table, which keeps its elements, a table that was restored from
// a snapshot, and rules of another version. The kernel checks elements when they are
// written, except those of a set that is deleted as a whole.
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
	want[0] = table{handle: s.table}
	if found := compare(have, want, func(object) bool { return false }); len(found) > 0 {
		return fmt.Errorf("%w: %s", backend.ErrDrift, found[0].Text)
	}
	s.table = only[table](have)[0].handle
	return nil
}

// Concerned reports whether a change of a table may have touched our rules.
func Concerned(family uint8, table string) bool {
	return family == unix.NFPROTO_INET && table == tableName
}
