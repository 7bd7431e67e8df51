package nftables

import (
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
)

func decodeExpr(as nfnetlink.Attributes) expr.Any {
	return DecodeExpression(unix.NFPROTO_INET, as.Text(unix.NFTA_EXPR_NAME), as.Get(unix.NFTA_EXPR_DATA))
}

// DecodeExpression decodes an expression of a rule, of a table of some family. It
// returns nil for one that it does not know. internal/explain evaluates rules of
// others with it.
func DecodeExpression(family byte, name string, data []byte) expr.Any {
	e := newExpr(name)
	if e == nil || expr.Unmarshal(family, data, e) != nil {
		return nil
	}
	if i, ok := e.(*expr.Immediate); ok && i.Register == unix.NFT_REG_VERDICT {
		v := &expr.Verdict{}
		if expr.Unmarshal(family, data, v) != nil {
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
	case "byteorder":
		return &expr.Byteorder{}
	case "cmp":
		return &expr.Cmp{}
	case "ct":
		return &expr.Ct{}
	case "dynset":
		return &expr.Dynset{}
	case "fib":
		return &expr.Fib{}
	case "hash":
		return &expr.Hash{}
	case "immediate":
		return &expr.Immediate{}
	case "limit":
		return &expr.Limit{}
	case "lookup":
		return &expr.Lookup{}
	case "masq":
		return &expr.Masq{}
	case "meta":
		return &expr.Meta{}
	case "nat":
		return &expr.NAT{}
	case "numgen":
		return &expr.Numgen{}
	case "payload":
		return &expr.Payload{}
	case "range":
		return &expr.Range{}
	case "redir":
		return &expr.Redir{}
	case "reject":
		return &expr.Reject{}
	case "tproxy":
		return &expr.TProxy{}
	default:
		return nil
	}
}
