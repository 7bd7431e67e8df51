package nftables

import (
	"context"
	"fmt"
	"strconv"

	"github.com/google/nftables"
)

// What is remembered of the kernel. The generation of the ruleset: the kernel
// counts the commits of a network namespace, whoever makes them, and a
// transaction may say which generation it is for (Linux 4.12). And the handle
// of our table, which the kernel never gives out twice: a table that somebody
// restored has another one, whatever is in it.
const (
	wordGeneration = "generation"
	wordTable      = "table"
)

// advance commits the step to the generation that is remembered: the table is
// as Apply left it. It reports false, with nothing changed, where that is not
// known or the kernel says otherwise.
func (b *Backend) advance(ctx context.Context, s step) (bool, error) {
	g, err := b.generation()
	if err != nil || g == 0 {
		return false, err
	}
	err = b.send(s.write, g)
	switch {
	case err == nil:
		b.rememberStep(ctx, s, g+1)
		return true, nil
	case transient(err) || mismatch(err):
		return false, nil
	default:
		return false, err
	}
}

// generation is what is remembered; 0 if nothing.
func (b *Backend) generation() (uint32, error) {
	if b.memory == nil {
		return 0, nil
	}
	word, err := b.memory.Recall(wordGeneration)
	if err != nil || word == "" {
		return 0, err
	}
	g, err := strconv.ParseUint(word, 10, 32)
	if err != nil {
		return 0, nil // of a version that wrote something else
	}
	return uint32(g), nil
}

// observe is the generation before the rules are read, 0 where nobody would
// remember it.
func (b *Backend) observe() uint32 {
	if b.memory == nil {
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
			b.rememberStep(ctx, s, b.settled(g))
		}
		if !transient(err) {
			return err
		}
	}
	err := b.commit(ctx, s.write)
	if err == nil {
		b.rememberStep(ctx, s, 0)
	}
	return err
}

// settled is the generation after a transaction for generation g, 0 where others
// have committed since. It is asked for and not counted: elements that an
// invocation before wrote, and did not live to note, are there already, and then
// the kernel commits nothing. Who remembers a generation too many takes the next
// change of somebody else for ours, and does not look.
func (b *Backend) settled(g uint32) uint32 {
	if now := b.observe(); now == g || now == g+1 {
		return now
	}
	return 0
}

// rememberStep notes how a step left the kernel; a generation of 0 is unknown.
func (b *Backend) rememberStep(ctx context.Context, s step, g uint32) {
	if b.memory == nil {
		return
	}
	if g != 0 {
		b.memory.Remember(wordGeneration, strconv.FormatUint(uint64(g), 10))
	}
	if s.first() || s.last() {
		b.rememberTable(ctx, s.first())
	}
}

// rememberTable notes the handle of the table, if there is to be one. Where it
// cannot be read, the next ADD rewrites the table.
func (b *Backend) rememberTable(ctx context.Context, exists bool) {
	if b.memory == nil {
		return
	}
	word := ""
	if exists {
		word, _ = b.tableHandle(ctx)
	}
	b.memory.Remember(wordTable, word)
}

// tableRestored reports whether the table is not the one that is remembered.
func (b *Backend) tableRestored(ctx context.Context) (bool, error) {
	if b.memory == nil {
		return false, nil
	}
	want, err := b.memory.Recall(wordTable)
	if err != nil {
		return false, err
	}
	have, err := b.tableHandle(ctx)
	return want == "" || have != want, err
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
