package nftables

import (
	"context"
	"fmt"

	"github.com/google/nftables"
)

// A witness is a Rest that keeps one number with the attachments: the
// generation of the ruleset in which Apply left it. The kernel counts the
// commits of a network namespace, whoever makes them, and a transaction may say
// which generation it is for (Linux 4.12). As long as nobody else writes, a
// change is then one message, and nothing is read.
type witness interface {
	// Generation is what was remembered last in this network namespace; 0 if
	// nothing.
	Generation() (uint32, error)
	Remember(generation uint32)
}

// advance commits the step to the generation that is remembered: the table is
// as Apply left it. It reports false, with nothing changed, where that is not
// known or the kernel says otherwise.
func (b *Backend) advance(s step) (bool, error) {
	w, ok := s.Rest.(witness)
	if !ok {
		return false, nil
	}
	g, err := w.Generation()
	if err != nil || g == 0 {
		return false, err
	}
	err = b.send(s.write, g)
	switch {
	case err == nil:
		w.Remember(g + 1)
		return true, nil
	case transient(err) || mismatch(err):
		return false, nil
	default:
		return false, err
	}
}

// observe is the generation before the rules are read, 0 where nobody would
// remember it.
func (b *Backend) observe(s step) uint32 {
	if _, ok := s.Rest.(witness); !ok {
		return 0
	}
	conn, err := nftables.New(b.options()...)
	if err != nil {
		return 0 // the commit will tell
	}
	gen, err := conn.GetGen()
	if err != nil {
		return 0
	}
	return gen.ID
}

// settle commits the step, to the generation g if it is still the ruleset's:
// only then what was read is known to hold, and the next one is worth
// remembering. Where others write all the time the change must not wait for a
// pause of theirs.
func (b *Backend) settle(ctx context.Context, s step, g uint32) error {
	if g != 0 {
		err := b.send(s.write, g)
		if err == nil {
			s.Rest.(witness).Remember(g + 1)
		}
		if !transient(err) {
			return err
		}
	}
	return b.commit(ctx, s.write)
}

// send sends one transaction, to generation g of the ruleset unless that is 0.
func (b *Backend) send(build func(*batch), g uint32) error {
	conn, err := nftables.New(b.options()...)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
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
