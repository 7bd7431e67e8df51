package nftables

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The library's own listings cannot be used: they take no notice of the flag
// by which the kernel says that a dump is inconsistent, and ask for the rules
// chain by chain.

// dump asks for a listing and has each message of the answer decoded. A table,
// set or chain that does not exist has none, and so does a kernel without
// nf_tables. It starts again when the ruleset changed meanwhile.
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
	if anyErrno(err, unix.ENOENT) || unsupported(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read table %s: %w", tableName, explain(err))
	}
	for _, m := range msgs {
		if len(m.Data) < nfgenmsgLen {
			return fmt.Errorf("read table %s: message of %d bytes", tableName, len(m.Data))
		}
		each(attributes(m.Data[nfgenmsgLen:]))
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
	defer conn.Close()
	req := netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
	if req, err = conn.Send(req); err != nil {
		return nil, err
	}
	b.widen(conn)
	msgs, err := conn.Receive()
	if err != nil {
		return nil, err
	}
	if err := netlink.Validate(req, msgs); err != nil {
		return nil, err
	}
	for _, m := range msgs {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return nil, errInterrupted
		}
	}
	return msgs, nil
}

// widen makes the kernel fill 32 KiB at a time, the most it ever does, which
// is as much as the longest buffer it was asked to read into. For each part of
// a listing it walks the set from the start, so small parts make the time grow
// with the square of the elements: 60,000 took half a minute.
func (b *Backend) widen(conn *netlink.Conn) {
	if b.dial != nil {
		return
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return // it only takes longer
	}
	buf := make([]byte, 32<<10)
	_ = raw.Control(func(fd uintptr) {
		_, _, _ = unix.Recvfrom(int(fd), buf, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
}

func nameAttr(t uint16, name string) netlink.Attribute {
	return netlink.Attribute{Type: t, Data: []byte(name + "\x00")}
}

// dumpRules reads the rules of all chains of the table.
func (b *Backend) dumpRules(ctx context.Context) (map[string][]rule, error) {
	rules := make(map[string][]rule)
	request := []netlink.Attribute{nameAttr(unix.NFTA_RULE_TABLE, tableName)}
	err := b.dump(ctx, unix.NFT_MSG_GETRULE, request, func(as attributes) {
		if as.text(unix.NFTA_RULE_TABLE) != tableName {
			return
		}
		r := rule{comment: comment(as.get(unix.NFTA_RULE_USERDATA), userdata.TypeComment)}
		for _, e := range as.nested(unix.NFTA_RULE_EXPRESSIONS).all() {
			r.exprs = append(r.exprs, decodeExpr(e))
		}
		chain := as.text(unix.NFTA_RULE_CHAIN)
		rules[chain] = append(rules[chain], r)
	})
	return rules, err
}

// nftaTableHandle is NFTA_TABLE_HANDLE (Linux 4.16), which the library lacks.
const nftaTableHandle = 4

// tableHandle returns the number by which the kernel knows the table, "" if there
// is none.
func (b *Backend) tableHandle(ctx context.Context) (handle string, err error) {
	err = b.dump(ctx, unix.NFT_MSG_GETTABLE, nil, func(as attributes) {
		if as.text(unix.NFTA_TABLE_NAME) == tableName {
			handle = hex.EncodeToString(as.get(nftaTableHandle))
		}
	})
	return handle, err
}

// placement is what the kernel says of a chain besides its rules.
type placement struct {
	kind             string
	number, priority int32
	policy           uint32
}

// dumpChains reads the chains of the table. The kernel lists those of all
// tables of the family.
func (b *Backend) dumpChains(ctx context.Context) (map[string]placement, error) {
	chains := make(map[string]placement)
	err := b.dump(ctx, unix.NFT_MSG_GETCHAIN, nil, func(as attributes) {
		if as.text(unix.NFTA_CHAIN_TABLE) != tableName {
			return
		}
		h := as.nested(unix.NFTA_CHAIN_HOOK)
		chains[as.text(unix.NFTA_CHAIN_NAME)] = placement{
			kind:     as.text(unix.NFTA_CHAIN_TYPE),
			number:   int32(h.uint32(unix.NFTA_HOOK_HOOKNUM)),
			priority: int32(h.uint32(unix.NFTA_HOOK_PRIORITY)),
			policy:   as.uint32(unix.NFTA_CHAIN_POLICY),
		}
	})
	return chains, err
}

// declaration is what the kernel says of a set besides its elements.
type declaration struct {
	isMap             bool
	keyType, dataType uint32
	counters          bool
}

func (b *Backend) dumpSets(ctx context.Context) (map[string]declaration, error) {
	sets := make(map[string]declaration)
	request := []netlink.Attribute{nameAttr(unix.NFTA_SET_TABLE, tableName)}
	err := b.dump(ctx, unix.NFT_MSG_GETSET, request, func(as attributes) {
		if as.text(unix.NFTA_SET_TABLE) != tableName || as.uint32(unix.NFTA_SET_FLAGS)&unix.NFT_SET_ANONYMOUS != 0 {
			return
		}
		sets[as.text(unix.NFTA_SET_NAME)] = declaration{
			isMap:    as.uint32(unix.NFTA_SET_FLAGS)&unix.NFT_SET_MAP != 0,
			keyType:  as.uint32(unix.NFTA_SET_KEY_TYPE),
			dataType: as.uint32(unix.NFTA_SET_DATA_TYPE),
			counters: as.get(nftaSetExpr) != nil,
		}
	})
	return sets, err
}

// nftaSetExpr is NFTA_SET_EXPR, an expression that every element has. The
// name is missing in golang.org/x/sys/unix.
const nftaSetExpr = 17

// dumpElements reads a set or map.
func (b *Backend) dumpElements(ctx context.Context, set string) ([]element, error) {
	var out []element
	request := []netlink.Attribute{
		nameAttr(unix.NFTA_SET_ELEM_LIST_TABLE, tableName),
		nameAttr(unix.NFTA_SET_ELEM_LIST_SET, set),
	}
	err := b.dump(ctx, unix.NFT_MSG_GETSETELEM, request, func(as attributes) {
		for _, e := range as.nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS).all() {
			out = append(out, decodeElement(set, e))
		}
	})
	return out, err
}

func decodeElement(set string, as attributes) element {
	data := as.nested(unix.NFTA_SET_ELEM_DATA)
	return element{
		set:     set,
		key:     string(as.nested(unix.NFTA_SET_ELEM_KEY).get(unix.NFTA_DATA_VALUE)),
		value:   string(data.get(unix.NFTA_DATA_VALUE)),
		jump:    data.nested(unix.NFTA_DATA_VERDICT).text(unix.NFTA_VERDICT_CHAIN),
		comment: comment(as.get(unix.NFTA_SET_ELEM_USERDATA), userdata.NFTNL_UDATA_SET_ELEM_COMMENT),
	}
}
