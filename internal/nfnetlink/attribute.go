package nfnetlink

import (
	"iter"
	"reflect"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// Attributes holds the netlink attributes of one level of a message, as
// received. They are read in place: an ADD reads hundreds of them. Reading ends
// at malformed bytes; missing attributes then differ from every expected value.
type Attributes []byte

// All yields each attribute's type, without its flags, and its content.
func (a Attributes) All() iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for b := a; len(b) >= unix.NLA_HDRLEN; {
			n := int(binaryutil.NativeEndian.Uint16(b))
			if n < unix.NLA_HDRLEN || n > len(b) {
				return
			}
			kind := binaryutil.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, b[unix.NLA_HDRLEN:n]) {
				return
			}
			b = b[min(len(b), (n+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
		}
	}
}

// Get returns the content of the first attribute of a type, nil if there is none.
func (a Attributes) Get(kind uint16) []byte {
	for k, data := range a.All() {
		if k == kind {
			return data
		}
	}
	return nil
}

// Nested returns the attributes in the first attribute of a type.
func (a Attributes) Nested(kind uint16) Attributes { return a.Get(kind) }

// Text returns a string, "" if there is none.
func (a Attributes) Text(kind uint16) string { return unix.ByteSliceToString(a.Get(kind)) }

// Uint8 returns a number of 8 bits, 0 if there is none.
func (a Attributes) Uint8(kind uint16) uint8 { return uint8(a.number(kind, 1)) }

// Uint16 returns a number of 16 bits in network byte order, 0 if there is none.
func (a Attributes) Uint16(kind uint16) uint16 { return uint16(a.number(kind, 2)) }

// Uint32 returns a number of 32 bits in network byte order, 0 if there is none.
func (a Attributes) Uint32(kind uint16) uint32 { return uint32(a.number(kind, 4)) }

// Uint64 returns a number of 64 bits in network byte order, 0 if there is none.
func (a Attributes) Uint64(kind uint16) uint64 { return a.number(kind, 8) }

func (a Attributes) number(kind uint16, size int) (n uint64) {
	if data := a.Get(kind); len(data) == size {
		for _, b := range data {
			n = n<<8 | uint64(b)
		}
	}
	return n
}

// Comment returns a comment from the data that user space attaches to an
// object. Unlike the library's function it accepts any bytes.
func Comment(data []byte, kind userdata.Type) string {
	for len(data) >= 2 {
		n := 2 + int(data[1])
		if n > len(data) {
			return ""
		}
		if userdata.Type(data[0]) == kind {
			return unix.ByteSliceToString(data[2:n])
		}
		data = data[n:]
	}
	return ""
}

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
		e = &expr.Verdict{}
		if expr.Unmarshal(family, data, e) != nil {
			return name, nil
		}
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
