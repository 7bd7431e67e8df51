package nftables

import "context"

// intact reports whether the rules that a step relies on are there, in the
// table that is remembered. It finds a flushed table, which keeps its elements,
// a table that was restored from another time, and rules of another version of
// this package; the elements answer for themselves when they are written.
func (b *Backend) intact(ctx context.Context, s step) (bool, error) {
	restored, err := b.tableRestored(ctx)
	if err != nil || restored {
		return false, err
	}
	have, err := b.dumpRules(ctx)
	if err != nil {
		return false, err
	}
	for _, c := range shapeOf(s.before).chains() {
		whole := c.same
		if c.name == chainClients {
			whole = c.within // the plan knows of the sets that the step touches only
		}
		if !whole(have[c.name]) {
			return false, nil
		}
	}
	return true, nil
}
