package nftables

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
)

// dump lists objects of the backend's family. A kernel without nf_tables has none.
func (b *Backend) dump(ctx context.Context, kind uint16, attrs []netlink.Attribute, each func(nfnetlink.Attributes)) error {
	conn, err := b.open()
	if err == nil {
		defer conn.Close()
		err = nfnetlink.List(ctx, conn, kind, unix.NFPROTO_INET, attrs, func(_ byte, as nfnetlink.Attributes) { each(as) })
	}
	if err == nil || unsupported(err) {
		return nil
	}
	return fmt.Errorf("read table %s: %w", tableName, explain(err))
}

// dumpRules reads the rules of all chains of the table.
func (b *Backend) dumpRules(ctx context.Context) (map[string][]rule, error) {
	rules := make(map[string][]rule)
	request := []netlink.Attribute{nfnetlink.Name(unix.NFTA_RULE_TABLE, tableName)}
	err := b.dump(ctx, unix.NFT_MSG_GETRULE, request, func(as nfnetlink.Attributes) {
		if as.Text(unix.NFTA_RULE_TABLE) != tableName {
			return
		}
		r := rule{comment: nfnetlink.Comment(as.Get(unix.NFTA_RULE_USERDATA), userdata.TypeComment)}
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
	err = b.dump(ctx, unix.NFT_MSG_GETTABLE, nil, func(as nfnetlink.Attributes) {
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
	err := b.dump(ctx, unix.NFT_MSG_GETCHAIN, nil, func(as nfnetlink.Attributes) {
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
	request := []netlink.Attribute{nfnetlink.Name(unix.NFTA_SET_TABLE, tableName)}
	err := b.dump(ctx, unix.NFT_MSG_GETSET, request, func(as nfnetlink.Attributes) {
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
		nfnetlink.Name(unix.NFTA_SET_ELEM_LIST_TABLE, tableName),
		nfnetlink.Name(unix.NFTA_SET_ELEM_LIST_SET, set),
	}
	err := b.dump(ctx, unix.NFT_MSG_GETSETELEM, request, func(as nfnetlink.Attributes) {
		for _, e := range as.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS).All() {
			out = append(out, decodeElement(set, e))
		}
	})
	return out, err
}

func decodeElement(set string, as nfnetlink.Attributes) element {
	data := as.Nested(unix.NFTA_SET_ELEM_DATA)
	return element{
		set:     set,
		key:     string(as.Nested(unix.NFTA_SET_ELEM_KEY).Get(unix.NFTA_DATA_VALUE)),
		value:   string(data.Get(unix.NFTA_DATA_VALUE)),
		jump:    data.Nested(unix.NFTA_DATA_VERDICT).Text(unix.NFTA_VERDICT_CHAIN),
		comment: nfnetlink.Comment(as.Get(unix.NFTA_SET_ELEM_USERDATA), userdata.NFTNL_UDATA_SET_ELEM_COMMENT),
		packets: as.Nested(unix.NFTA_SET_ELEM_EXPR).Nested(unix.NFTA_EXPR_DATA).Uint64(unix.NFTA_COUNTER_PACKETS),
	}
}
