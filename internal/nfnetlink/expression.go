package nfnetlink

import (
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Expression decodes an expression of a rule in a table of the given family. It
// returns the kernel's name for it, and nil for an unknown expression.
func Expression(family byte, as Attributes) (name string, e expr.Any) {
	name, data := as.Text(unix.NFTA_EXPR_NAME), as.Get(unix.NFTA_EXPR_DATA)
	for _, x := range expressions {
		if x.name == name {
			e = x.empty()
		}
	}
	if e == nil || expr.Unmarshal(family, data, e) != nil {
		return name, nil
	}
	if i, ok := e.(*expr.Immediate); ok && i.Register == unix.NFT_REG_VERDICT {
		v := &expr.Verdict{}
		if expr.Unmarshal(family, data, v) != nil {
			return name, nil
		}
		return name, v
	}
	return name, e
}

// expressions holds the expressions that can be decoded. The library's own list
// lacks some, and its rule readers omit unlisted ones.
var expressions = [...]struct {
	name  string
	empty func() expr.Any
}{
	{"bitwise", func() expr.Any { return &expr.Bitwise{} }},
	{"byteorder", func() expr.Any { return &expr.Byteorder{} }},
	{"cmp", func() expr.Any { return &expr.Cmp{} }},
	{"ct", func() expr.Any { return &expr.Ct{} }},
	{"dynset", func() expr.Any { return &expr.Dynset{} }},
	{"fib", func() expr.Any { return &expr.Fib{} }},
	{"hash", func() expr.Any { return &expr.Hash{} }},
	{"immediate", func() expr.Any { return &expr.Immediate{} }},
	{"limit", func() expr.Any { return &expr.Limit{} }},
	{"lookup", func() expr.Any { return &expr.Lookup{} }},
	{"masq", func() expr.Any { return &expr.Masq{} }},
	{"meta", func() expr.Any { return &expr.Meta{} }},
	{"nat", func() expr.Any { return &expr.NAT{} }},
	{"numgen", func() expr.Any { return &expr.Numgen{} }},
	{"payload", func() expr.Any { return &expr.Payload{} }},
	{"range", func() expr.Any { return &expr.Range{} }},
	{"redir", func() expr.Any { return &expr.Redir{} }},
	{"reject", func() expr.Any { return &expr.Reject{} }},
	{"tproxy", func() expr.Any { return &expr.TProxy{} }},
}
