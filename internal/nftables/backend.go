package nftables

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Options of a Backend.
type Options struct {
	// NetNS is a file descriptor of the network namespace to work in, open for
	// as long as the backend is used; 0 is that of the calling thread.
	NetNS int
	// Log gets what an operator should know; nil discards it.
	Log *slog.Logger
}

// Backend programs attachments into table inet hostport of one network
// namespace. It holds no connection and no state; making one costs nothing.
type Backend struct {
	netns int
	log   *slog.Logger
	dial  nltest.Func
}

// New returns a backend.
func New(o Options) *Backend {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Backend{netns: o.NetNS, log: o.Log}
}

// Apply carries out one change in one transaction. The steady path reads
// nothing if nobody committed to the ruleset since c.Seen. Otherwise it reads
// the rules, a fixed number, and the error wraps backend.ErrDrift if somebody
// changed them or replaced the table. After an error the kernel holds what it
// held before.
func (b *Backend) Apply(ctx context.Context, c backend.Change) (string, error) {
	p, err := newPlan(c)
	if err != nil || p.empty() {
		return c.Seen, err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	s := parseSeen(c.Seen)
	if s.generation != 0 {
		err = b.send(p.write, s.generation)
		if err == nil && p.writes() {
			s.generation++
		}
	}
	if s.generation == 0 || nfnetlink.Transient(err) {
		s.generation = b.generation()
		if err := b.verify(ctx, p, &s); err != nil {
			return "", err
		}
		s.generation, err = b.settle(ctx, p.write, s.generation)
	}
	if mismatch(err) {
		return "", b.drift(ctx, p, err)
	}
	if err != nil {
		return "", b.reason(ctx, err)
	}
	switch {
	case p.first:
		s.table, err = b.tableHandle(ctx)
	case p.last:
		s.table = ""
	}
	return s.String(), err
}

// drift is the error of a transaction that did not fit the kernel. Where no table
// of ours was expected, the kernel may lack what one needs: without the module of
// an expression it says ENOENT.
func (b *Backend) drift(ctx context.Context, p plan, err error) error {
	if p.first {
		if lack := b.lacks(ctx); lack != nil {
			return fmt.Errorf("%w: %w", lack, err)
		}
	}
	return fmt.Errorf("%w: %w", backend.ErrDrift, err)
}

// Rewrite replaces the table in one transaction. One that is right already is left
// alone, with its counters. Of an attachment whose conditions cannot be read, the
// ports are not mapped for anyone.
func (b *Backend) Rewrite(ctx context.Context, all []*hostport.Attachment, _ hostport.Fingerprint) (string, error) {
	for _, d := range unreadable(all...) {
		b.log.Warn("host ports are closed", "attachment", d.Owner, "reason", d.Text)
	}
	s := seen{generation: b.generation()}
	have, err := b.snapshot(ctx)
	if err != nil || len(have.differences(all, true)) > 0 {
		s.generation, err = b.settle(ctx, func(t *batch) { t.rewrite(all) }, s.generation)
	}
	if err != nil {
		return "", fmt.Errorf("rewrite table %s: %w", tableName, b.reason(ctx, err))
	}
	s.table, err = b.tableHandle(ctx)
	return s.String(), err
}

// send sends one transaction, to generation g of the ruleset unless that is 0.
func (b *Backend) send(build func(*batch), g uint32) error {
	conn, err := b.conn()
	if err != nil {
		return err
	}
	t := newBatch(conn, tableName)
	build(t)
	if t.err != nil {
		return t.err
	}
	flush := conn.Flush
	if g != 0 {
		flush = func() error { return conn.FlushWithGenID(g) }
	}
	if err := flush(); err != nil {
		return fmt.Errorf("commit to table %s: %w", tableName, explain(err))
	}
	return nil
}

// conn returns a connection of the library's.
func (b *Backend) conn() (*nftables.Conn, error) {
	opts := []nftables.ConnOption{nftables.WithNetNSFd(b.netns)}
	if b.dial != nil {
		opts = append(opts, nftables.WithTestDial(b.dial))
	}
	conn, err := nftables.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", explain(err))
	}
	return conn, nil
}

// open returns a connection for our own listings.
func (b *Backend) open() (*netlink.Conn, error) {
	if b.dial != nil {
		return nltest.Dial(b.dial), nil
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: b.netns})
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", explain(err))
	}
	return c, nil
}
