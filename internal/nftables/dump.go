package nftables

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// read returns the objects of the table, and the elements of the sets for which elements
// returns true, of all if it is nil. On error it still returns what could be read.
func (b *Backend) read(ctx context.Context, elements func(set string) bool) (out []object, err error) {
	rules := make(map[string][]rule)
	err = b.dump(ctx, func(list lister) {
		list(unix.NFPROTO_INET, unix.NFT_MSG_GETTABLE, func(as nfnetlink.Attributes) {
			out = append(out, table{hex.EncodeToString(as.Get(nftaTableHandle)), as.Uint32(unix.NFTA_TABLE_FLAGS)})
		}, tableName)
		list(unix.NFPROTO_INET, unix.NFT_MSG_GETRULE, func(as nfnetlink.Attributes) {
			r := rule{comment: nfnetlink.Comment(as.Get(unix.NFTA_RULE_USERDATA), userdata.TypeComment)}
			for _, e := range as.Nested(unix.NFTA_RULE_EXPRESSIONS).All() {
				_, known := nfnetlink.Expression(unix.NFPROTO_INET, e)
				r.exprs = append(r.exprs, known)
			}
			chain := as.Text(unix.NFTA_RULE_CHAIN)
			rules[chain] = append(rules[chain], r)
		}, tableName)
		list(unix.NFPROTO_INET, unix.NFT_MSG_GETCHAIN, func(as nfnetlink.Attributes) {
			name, h := as.Text(unix.NFTA_CHAIN_NAME), as.Nested(unix.NFTA_CHAIN_HOOK)
			out = append(out, chain{name: name, rules: rules[name], hook: hook{
				kind:     nftables.ChainType(as.Text(unix.NFTA_CHAIN_TYPE)),
				number:   nftables.ChainHook(h.Uint32(unix.NFTA_HOOK_HOOKNUM)),
				priority: nftables.ChainPriority(h.Uint32(unix.NFTA_HOOK_PRIORITY)),
				policy:   nftables.ChainPolicy(as.Uint32(unix.NFTA_CHAIN_POLICY)),
			}})
		}, tableName)
		list(unix.NFPROTO_INET, unix.NFT_MSG_GETSET, func(as nfnetlink.Attributes) {
			if as.Uint32(unix.NFTA_SET_FLAGS)&unix.NFT_SET_ANONYMOUS == 0 {
				out = append(out, decodeSet(as))
			}
		}, tableName)
		for _, s := range only[set](out) {
			if elements == nil || elements(s.name) {
				list(unix.NFPROTO_INET, unix.NFT_MSG_GETSETELEM, func(as nfnetlink.Attributes) {
					for _, e := range as.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS).All() {
						out = append(out, decodeElement(s.name, e))
					}
				}, tableName, s.name)
			}
		}
	})
	return out, err
}

func decodeSet(as nfnetlink.Attributes) set {
	// NFTA_SET_EXPR is an expression that every element has.
	s := set{name: as.Text(unix.NFTA_SET_NAME), counters: as.Get(nftables.NFTA_SET_ELEM_EXPRESSIONS) != nil}
	s.key.SetNFTMagic(as.Uint32(unix.NFTA_SET_KEY_TYPE))
	s.key.Bytes = as.Uint32(unix.NFTA_SET_KEY_LEN)
	switch data := as.Uint32(unix.NFTA_SET_DATA_TYPE); data {
	case unix.NFT_DATA_VERDICT:
		s.data = concat(nftables.TypeVerdict)
	default:
		s.data.SetNFTMagic(data)
		s.data.Bytes = as.Uint32(unix.NFTA_SET_DATA_LEN)
	}
	return s
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

// nftaTableHandle is NFTA_TABLE_HANDLE (Linux 4.16), which the library lacks.
const nftaTableHandle = 4

// tableHandle returns the kernel's handle of the table, "" if there is no table.
func (b *Backend) tableHandle(ctx context.Context) (handle string, err error) {
	err = b.dump(ctx, func(list lister) {
		list(unix.NFPROTO_INET, unix.NFT_MSG_GETTABLE, func(as nfnetlink.Attributes) {
			handle = hex.EncodeToString(as.Get(nftaTableHandle))
		}, tableName)
	})
	return handle, err
}

// KubeProxy reports whether kube-proxy programs this namespace in nftables mode, by
// looking for its tables of families ip and ip6 (Kubernetes 1.29). A kernel without
// nf_tables has none.
func (b *Backend) KubeProxy(ctx context.Context) (found bool, err error) {
	err = b.dump(ctx, func(list lister) {
		for _, f := range hostport.Families() {
			list(nfnetlink.Family(f), unix.NFT_MSG_GETTABLE, func(nfnetlink.Attributes) { found = true }, "kube-proxy")
		}
	})
	return found, err
}

// lister lists objects of a table, or elements of one of its sets.
type lister func(family byte, kind uint16, each func(nfnetlink.Attributes), names ...string)

// dump calls do with a lister. A kernel without nf_tables has nothing to list.
func (b *Backend) dump(ctx context.Context, do func(lister)) error {
	var errs []error
	failed := func(table string, err error) {
		if err != nil && !nfnetlink.Unsupported(err) {
			err = fmt.Errorf("read table %s: %w", table, explain(err))
			if len(errs) == 0 || errs[len(errs)-1].Error() != err.Error() { // the next list fails in the same way
				errs = append(errs, err)
			}
		}
	}
	conn, err := nfnetlink.Dial()
	if failed(tableName, err); err != nil {
		return errors.Join(errs...)
	}
	defer conn.Close()
	do(func(family byte, kind uint16, each func(nfnetlink.Attributes), names ...string) {
		failed(names[0], nfnetlink.List(ctx, conn, family, kind, each, names...))
	})
	return errors.Join(errs...)
}
