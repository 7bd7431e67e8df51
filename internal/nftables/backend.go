package nftables

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Backend programs attachments into table inet hostport of one network
// namespace. It holds no connection and no state; making one costs nothing.
// Callers make sure that only one change is under way on a node.
type Backend struct {
	netns  int // 0: the calling thread's
	memory hostport.Memory
	dial   nltest.Func
}

// Option adapts a Backend.
type Option func(*Backend)

// WithNetNS makes the backend work in the network namespace that fd refers to,
// which stays open as long as the backend is used.
func WithNetNS(fd int) Option {
	return func(b *Backend) { b.netns = fd }
}

// WithMemory makes the backend remember how it left the kernel. Then a change
// reads nothing while nobody else writes, and a table that was restored from
// another time is noticed.
func WithMemory(m hostport.Memory) Option {
	return func(b *Backend) { b.memory = m }
}

// New is a backend for the calling thread's network namespace.
func New(opts ...Option) *Backend {
	b := &Backend{}
	for _, o := range opts {
		o(b)
	}
	return b
}

// Shares names the objects that the attachment's rules need and others may
// need too: the base, the sets of masqueraded clients by prefix length, and
// the maps that lead to conditions.
func (b *Backend) Shares(a *hostport.Attachment) []string { return shares(a) }

// Apply carries out one change in one transaction. The steady path reads
// nothing if nobody wrote to the ruleset since (see advance), else only the
// rules, a fixed number, to see whether someone emptied the table; where the
// kernel differs from what Rest says, everything is rewritten from the
// attachments. On an error the kernel holds what it held before.
func (b *Backend) Apply(ctx context.Context, c hostport.Change) error {
	s, err := plan(c)
	if err != nil || s.nothing {
		return err
	}
	if done, err := b.advance(ctx, s); done || err != nil {
		return err
	}
	var g uint32
	if len(c.Add) > 0 {
		g = b.observe()
	}
	if len(c.Add) > 0 && !s.first() {
		whole, err := b.intact(ctx, s)
		if err != nil {
			return err
		}
		if !whole {
			return b.repair(ctx, c)
		}
	}
	err = b.settle(ctx, s, g)
	if mismatch(err) {
		if again := b.repair(ctx, c); again != nil {
			return errors.Join(again, err)
		}
		return nil
	}
	return err
}

// repair rewrites everything as it should be after the change.
func (b *Backend) repair(ctx context.Context, c hostport.Change) error {
	rest, err := c.Rest.All()
	if err != nil {
		return fmt.Errorf("read the attachments to rewrite table %s: %w", tableName, err)
	}
	return b.rewrite(ctx, append(rest, c.Add...))
}

// Sync makes the table hold the rules of exactly these attachments, and
// removes it if there are none. A table that is right already is left alone,
// with its counters.
func (b *Backend) Sync(ctx context.Context, all []*hostport.Attachment) error {
	have, err := b.snapshot(ctx)
	if err != nil {
		return err
	}
	if len(differences(have, all, true)) == 0 {
		b.rememberTable(ctx, len(all) > 0)
		return nil
	}
	return b.rewrite(ctx, all)
}

func (b *Backend) rewrite(ctx context.Context, all []*hostport.Attachment) error {
	err := b.commit(ctx, func(t *batch) { t.rewrite(all) })
	if err != nil {
		return fmt.Errorf("rewrite table %s: %w", tableName, err)
	}
	b.rememberTable(ctx, usedBy(all)[shareBase])
	return nil
}

// commit sends one transaction. When the kernel asks to do it again, it is
// built anew and sent again, a bounded number of times.
func (b *Backend) commit(ctx context.Context, build func(*batch)) error {
	return retry(ctx, func() error { return b.send(build, 0) })
}

func (b *Backend) options() []nftables.ConnOption {
	opts := []nftables.ConnOption{nftables.WithNetNSFd(b.netns)}
	if b.dial != nil {
		opts = append(opts, nftables.WithTestDial(b.dial))
	}
	return opts
}

// open is a connection for reading.
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
