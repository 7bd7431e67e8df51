// Package nftables is the backend that programs attachments as elements of nftables maps,
// in table "inet hostport", over netlink. docs/design.md has the rules, and why they are
// so. The package starts no process and keeps nothing between calls.
package nftables

import (
	"context"
	"fmt"
	"log/slog"

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
		s.handles, err = b.handles(ctx)
	}
	return s.String(), err
}

// Rewrite writes what differs: what is right already is kept, with its counters, and serves
// meanwhile. It replaces the whole table if the kernel cannot change or not read the rest,
// or if other programs commit all the time. If an attachment's conditions cannot be
// parsed, its ports are closed to all clients. The table is for both families, so except
// must be empty.
func (b *Backend) Rewrite(ctx context.Context, all []*hostport.Attachment, _ hostport.Fingerprint, except ...hostport.Family) (_ string, was []*hostport.Attachment, err error) {
	if len(except) > 0 {
		return "", nil, fmt.Errorf("rewrite table %s: it cannot be left as it is for %s alone", tableName, except[0])
	}
	for _, d := range b.unreadable(all) {
		b.Log.Warn("host ports are closed", "attachment", d.Owner, "reason", d.Text)
	}
	var s seen
	want := contents(nil, all)
	const last = 4
	for n := range last + 1 {
		written := s.generation
		s.generation = b.generation()
		have, unread := b.read(ctx, nil)
		if s.generation == 0 || s.generation != written { // others have committed since
			was = append(was, ownersIn(have)...)
		}
		d := difference(have, want).first()
		if unread == nil && !d.writes() {
			s.handles = handlesIn(have)
			return s.String(), was, nil
		}
		whole := unread != nil || n == last && err != nil
		if whole {
			d = delta{gone: []object{table{}}, come: want}
		}
		if s.generation, err = b.commit(ctx, d.write, s.generation, n == last); whole && !nfnetlink.Transient(err) {
			break
		}
	}
	if err != nil {
		return "", was, fmt.Errorf("rewrite table %s: %w", tableName, b.reason(ctx, err, true, nil))
	}
	s.handles, err = b.handles(ctx)
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

// Concerned reports whether a change of a table may have touched our rules.
func Concerned(family uint8, table string) bool {
	return family == unix.NFPROTO_INET && table == tableName
}
