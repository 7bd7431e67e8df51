package nftables

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The library's own listings cannot be used: they take no notice of the flag
// by which the kernel says that a dump is inconsistent, ask for the rules chain by
// chain, and leave out expressions that they do not know.

// List asks for a listing through conn and calls each with the family and the
// attributes of every object. A table, set or chain that does not exist has none. It
// asks again when the ruleset changed meanwhile.
func List(
	ctx context.Context, conn *netlink.Conn, kind uint16, family byte, attrs []netlink.Attribute, each func(family byte, as Attributes),
) error {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	var msgs []netlink.Message
	err = retry(ctx, func() error {
		msgs, err = request(conn, kind, family, data)
		return err
	})
	if anyErrno(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, m := range msgs {
		if len(m.Data) < nfgenmsgLen {
			return fmt.Errorf("message of %d bytes", len(m.Data))
		}
		each(m.Data[0], Attributes(m.Data[nfgenmsgLen:]))
	}
	return nil
}

// nfgenmsgLen is the header of every nf_tables message: family, version and a
// number that requests leave zero.
const nfgenmsgLen = 4

func request(conn *netlink.Conn, kind uint16, family byte, attrs []byte) ([]netlink.Message, error) {
	req, err := conn.Send(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		return nil, err
	}
	widen(conn)
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
func widen(conn *netlink.Conn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return // it only takes longer
	}
	buf := make([]byte, 32<<10)
	_ = raw.Control(func(fd uintptr) {
		_, _, _ = unix.Recvfrom(int(fd), buf, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
}

// dump lists objects of the backend's family. A kernel without nf_tables has none.
func (b *Backend) dump(ctx context.Context, kind uint16, attrs []netlink.Attribute, each func(Attributes)) error {
	conn, err := b.open()
	if err == nil {
		defer conn.Close()
		err = List(ctx, conn, kind, unix.NFPROTO_INET, attrs, func(_ byte, as Attributes) { each(as) })
	}
	if err == nil || unsupported(err) {
		return nil
	}
	return fmt.Errorf("read table %s: %w", tableName, explain(err))
}

func nameAttr(t uint16, name string) netlink.Attribute {
	return netlink.Attribute{Type: t, Data: []byte(name + "\x00")}
}

// dumpRules reads the rules of all chains of the table.
func (b *Backend) dumpRules(ctx context.Context) (map[string][]rule, error) {
	rules := make(map[string][]rule)
	request := []netlink.Attribute{nameAttr(unix.NFTA_RULE_TABLE, tableName)}
	err := b.dump(ctx, unix.NFT_MSG_GETRULE, request, func(as Attributes) {
		if as.Text(unix.NFTA_RULE_TABLE) != tableName {
			return
		}
		r := rule{comment: Comment(as.Get(unix.NFTA_RULE_USERDATA), userdata.TypeComment)}
		for _, e := range as.Nested(unix.NFTA_RULE_EXPRESSIONS).All() {
			r.exprs = append(r.exprs, decodeExpr(e))
		}
		chain := as.Text(unix.NFTA_RULE_CHAIN)
		rules[chain] = append(rules[chain], r)
	})
	return rules, err
}

// nftaTableHandle is NFTA_TABLE_HANDLE (Linux 4.16), which the library lacks.
const nftaTableHandle = 4

// tableHandle returns the number by which the kernel knows the table, "" if there
// is none.
func (b *Backend) tableHandle(ctx context.Context) (handle string, err error) {
	err = b.dump(ctx, unix.NFT_MSG_GETTABLE, nil, func(as Attributes) {
		if as.Text(unix.NFTA_TABLE_NAME) == tableName {
			handle = hex.EncodeToString(as.Get(nftaTableHandle))
		}
	})
	return handle, err
}

// dumpChains reads the chains of the table. The kernel lists those of all
// tables of the family.
func (b *Backend) dumpChains(ctx context.Context) (map[string]hook, error) {
	chains := make(map[string]hook)
	err := b.dump(ctx, unix.NFT_MSG_GETCHAIN, nil, func(as Attributes) {
		if as.Text(unix.NFTA_CHAIN_TABLE) != tableName {
			return
		}
		h := as.Nested(unix.NFTA_CHAIN_HOOK)
		chains[as.Text(unix.NFTA_CHAIN_NAME)] = hook{
			kind:     nftables.ChainType(as.Text(unix.NFTA_CHAIN_TYPE)),
			number:   nftables.ChainHook(h.Uint32(unix.NFTA_HOOK_HOOKNUM)),
			priority: nftables.ChainPriority(h.Uint32(unix.NFTA_HOOK_PRIORITY)),
			policy:   nftables.ChainPolicy(as.Uint32(unix.NFTA_CHAIN_POLICY)),
		}
	})
	return chains, err
}

// declaration is what the kernel says of a set besides its elements. Types are the
// numbers by which nft knows them, which the kernel only keeps: 0 for the data of a
// set that is no map.
type declaration struct {
	key, data uint32
	counters  bool
}

func (b *Backend) dumpSets(ctx context.Context) (map[string]declaration, error) {
	sets := make(map[string]declaration)
	request := []netlink.Attribute{nameAttr(unix.NFTA_SET_TABLE, tableName)}
	err := b.dump(ctx, unix.NFT_MSG_GETSET, request, func(as Attributes) {
		if as.Text(unix.NFTA_SET_TABLE) != tableName || as.Uint32(unix.NFTA_SET_FLAGS)&unix.NFT_SET_ANONYMOUS != 0 {
			return
		}
		sets[as.Text(unix.NFTA_SET_NAME)] = declaration{
			key:      as.Uint32(unix.NFTA_SET_KEY_TYPE),
			data:     as.Uint32(unix.NFTA_SET_DATA_TYPE),
			counters: as.Get(nftaSetExpr) != nil,
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
	err := b.dump(ctx, unix.NFT_MSG_GETSETELEM, request, func(as Attributes) {
		for _, e := range as.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS).All() {
			out = append(out, decodeElement(set, e))
		}
	})
	return out, err
}

func decodeElement(set string, as Attributes) element {
	data := as.Nested(unix.NFTA_SET_ELEM_DATA)
	return element{
		set:     set,
		key:     string(as.Nested(unix.NFTA_SET_ELEM_KEY).Get(unix.NFTA_DATA_VALUE)),
		value:   string(data.Get(unix.NFTA_DATA_VALUE)),
		jump:    data.Nested(unix.NFTA_DATA_VERDICT).Text(unix.NFTA_VERDICT_CHAIN),
		comment: Comment(as.Get(unix.NFTA_SET_ELEM_USERDATA), userdata.NFTNL_UDATA_SET_ELEM_COMMENT),
		packets: as.Nested(unix.NFTA_SET_ELEM_EXPR).Nested(unix.NFTA_EXPR_DATA).Uint64(unix.NFTA_COUNTER_PACKETS),
	}
}
