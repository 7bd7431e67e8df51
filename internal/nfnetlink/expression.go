package nfnetlink

import (
	"reflect"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Expression decodes an expression of a rule in a table of the given family. It
// returns the kernel's name for it, and nil for an unknown expression.
func Expression(family byte, as Attributes) (name string, e expr.Any) {
	name, data := as.Text(unix.NFTA_EXPR_NAME), as.Get(unix.NFTA_EXPR_DATA)
	for _, x := range expressions {
		if t := reflect.TypeOf(x).Elem(); strings.EqualFold(t.Name(), name) {
			e = reflect.New(t).Interface().(expr.Any)
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

// expressions holds one of each type that can be decoded; the kernel's names are those
// of the types in lower case. The library's own list lacks some, and its rule readers
// omit unlisted ones.
var expressions = [...]expr.Any{
	&expr.Bitwise{}, &expr.Byteorder{}, &expr.Cmp{}, &expr.Ct{}, &expr.Dynset{}, &expr.Fib{}, &expr.Hash{},
	&expr.Immediate{}, &expr.Limit{}, &expr.Lookup{}, &expr.Masq{}, &expr.Meta{}, &expr.NAT{}, &expr.Numgen{},
	&expr.Payload{}, &expr.Range{}, &expr.Redir{}, &expr.Reject{}, &expr.TProxy{},
}
