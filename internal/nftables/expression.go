package nftables

import (
	"reflect"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// decodeExpr is nil for an expression that no rule of ours has.
func decodeExpr(as attributes) expr.Any {
	data := as.get(unix.NFTA_EXPR_DATA)
	e := newExpr(as.text(unix.NFTA_EXPR_NAME))
	if e == nil || expr.Unmarshal(unix.NFPROTO_INET, data, e) != nil {
		return nil
	}
	if i, ok := e.(*expr.Immediate); ok && i.Register == unix.NFT_REG_VERDICT {
		v := &expr.Verdict{}
		if expr.Unmarshal(unix.NFPROTO_INET, data, v) != nil {
			return nil
		}
		return v
	}
	return e
}

func newExpr(name string) expr.Any {
	switch name {
	case "bitwise":
		return &expr.Bitwise{}
	case "cmp":
		return &expr.Cmp{}
	case "ct":
		return &expr.Ct{}
	case "fib":
		return &expr.Fib{}
	case "immediate":
		return &expr.Immediate{}
	case "lookup":
		return &expr.Lookup{}
	case "masq":
		return &expr.Masq{}
	case "meta":
		return &expr.Meta{}
	case "nat":
		return &expr.NAT{}
	case "payload":
		return &expr.Payload{}
	default:
		return nil
	}
}

// same reports whether both rules do the same: equal expressions, whatever
// tool wrote them. Comments do not count.
func (r rule) same(o rule) bool { return slices.EqualFunc(r.exprs, o.exprs, sameExpr) }

func sameExpr(x, y expr.Any) bool { return x != nil && reflect.DeepEqual(x, y) }
