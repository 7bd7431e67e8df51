package nftables

import (
	"context"
	"slices"
)

// intact reports whether the rules that a step relies on are there. It finds
// a flushed table, which keeps its elements, and rules of another version of
// this package; the elements answer for themselves when they are written.
func (b *Backend) intact(ctx context.Context, s step) (bool, error) {
	have, err := b.dumpRules(ctx)
	if err != nil {
		return false, err
	}
	for _, c := range shapeOf(s.before).chains() {
		if c.name == chainClients {
			// The plan knows of the sets that the step touches only.
			missing := func(r rule) bool { return !slices.ContainsFunc(have[chainClients], r.same) }
			if slices.ContainsFunc(c.rules, missing) {
				return false, nil
			}
			continue
		}
		if !sameRules(c.rules, have[c.name]) {
			return false, nil
		}
	}
	return true, nil
}
