package nftables

import (
	"context"
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The library's own listings cannot be used: they take no notice of the flag
// by which the kernel says that a dump is inconsistent, and ask for the rules
// chain by chain.

// dump sends one request for a listing and returns the payloads, decoded one
// by one. A table, set or chain that does not exist has none. It starts again
// when the ruleset changed meanwhile.
func (b *Backend) dump(ctx context.Context, kind uint16, attrs []netlink.Attribute, each func(attributes)) error {
	req, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	var msgs []netlink.Message
	err = retry(ctx, func() error {
		msgs, err = b.request(kind, req)
		return err
	})
	if anyErrno(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read table %s: %w", tableName, explain(err))
	}
	for _, m := range msgs {
		if len(m.Data) < nfgenmsgLen {
			return fmt.Errorf("read table %s: message of %d bytes", tableName, len(m.Data))
		}
		as, err := decode(m.Data[nfgenmsgLen:])
		if err != nil {
			return fmt.Errorf("read table %s: %w", tableName, err)
		}
		each(as)
	}
	return nil
}

// nfgenmsgLen is the header of every nf_tables message: family, version and a
// number that requests leave zero.
const nfgenmsgLen = 4

func (b *Backend) request(kind uint16, attrs []byte) ([]netlink.Message, error) {
	conn, err := b.open()
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // nothing was written to it
	msgs, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return nil, errInterrupted
		}
	}
	return msgs, nil
}

// attributes are one level of a message: those that occur once by their type,
// those of a list in order.
type attributes struct {
	byType map[uint16][]byte
	list   [][]byte
}

func decode(b []byte) (attributes, error) {
	as, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		return attributes{}, fmt.Errorf("decode attributes: %w", err)
	}
	out := attributes{byType: make(map[uint16][]byte, len(as))}
	for _, a := range as {
		t := a.Type &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		out.byType[t] = a.Data
		out.list = append(out.list, a.Data)
	}
	return out, nil
}

// nested is a level below. What cannot be decoded has no attributes: it then
// differs from everything that is expected.
func (a attributes) nested(t uint16) attributes {
	n, err := decode(a.byType[t])
	if err != nil {
		return attributes{}
	}
	return n
}

func (a attributes) text(t uint16) string { return cString(a.byType[t]) }

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// dumpRules reads the rules of all chains of the table.
func (b *Backend) dumpRules(ctx context.Context) (map[string][]rule, error) {
	rules := make(map[string][]rule)
	err := b.dump(ctx, unix.NFT_MSG_GETRULE, []netlink.Attribute{tableAttr(unix.NFTA_RULE_TABLE)}, func(as attributes) {
		if as.text(unix.NFTA_RULE_TABLE) != tableName {
			return
		}
		r := rule{comment: comment(as.byType[unix.NFTA_RULE_USERDATA], userdata.TypeComment)}
		for _, e := range as.nested(unix.NFTA_RULE_EXPRESSIONS).list {
			r.exprs = append(r.exprs, decodeExpr(e))
		}
		chain := as.text(unix.NFTA_RULE_CHAIN)
		rules[chain] = append(rules[chain], r)
	})
	return rules, err
}

func tableAttr(t uint16) netlink.Attribute {
	return netlink.Attribute{Type: t, Data: []byte(tableName + "\x00")}
}

// comment finds a comment in the data that user space attaches to an object.
func comment(data []byte, kind userdata.Type) string {
	for len(data) >= 2 {
		n := 2 + int(data[1])
		if n > len(data) {
			return ""
		}
		if userdata.Type(data[0]) == kind {
			return cString(data[2:n])
		}
		data = data[n:]
	}
	return ""
}

// decodeExpr is nil for an expression that no rule of ours has.
func decodeExpr(b []byte) expr.Any {
	as, err := decode(b)
	if err != nil {
		return nil
	}
	data := as.byType[unix.NFTA_EXPR_DATA]
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
