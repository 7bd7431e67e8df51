package nftables

import (
	"bytes"
	"context"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// same reports whether both rules do the same: equal expressions, as they
// would be written, whatever tool wrote them.
func (r rule) same(o rule) bool {
	return slices.EqualFunc(r.exprs, o.exprs, sameExpr)
}

func sameExpr(x, y expr.Any) bool {
	if x == nil || y == nil {
		return false
	}
	bx, errX := expr.Marshal(unix.NFPROTO_INET, x)
	by, errY := expr.Marshal(unix.NFPROTO_INET, y)
	return errX == nil && errY == nil && bytes.Equal(bx, by)
}

func sameRules(x, y []rule) bool { return slices.EqualFunc(x, y, rule.same) }

// intact reports whether the rules that a step relies on are there. It finds
// a flushed table, which keeps its elements, and rules of another version of
// this package; the elements themselves answer for their presence when they
// are written.
func (b *Backend) intact(ctx context.Context, s step) (bool, error) {
	have, err := b.dumpRules(ctx)
	if err != nil {
		return false, err
	}
	before := shapeOf(s.before)
	for _, c := range before.chains() {
		if c.name == chainClients {
			for _, r := range c.rules {
				if !slices.ContainsFunc(have[chainClients], r.same) {
					return false, nil
				}
			}
			continue
		}
		if !sameRules(c.rules, have[c.name]) {
			return false, nil
		}
	}
	return true, nil
}
