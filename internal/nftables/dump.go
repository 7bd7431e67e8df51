package nftables

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// read returns the objects of the table, and the elements of the sets for which elements
// returns true, of all if it is nil. On error it still returns what could be read. A kernel
// without nf_tables has no objects.
func (b *Backend) read(ctx context.Context, elements func(set string) bool) (out []object, err error) {
	conn, err := nfnetlink.Dial()
	if nfnetlink.Unsupported(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read table %s: %w", tableName, explain(err))
	}
	defer conn.Close()
	list := func(kind uint16, each func(nfnetlink.Attributes), set ...string) {
		err = cmp.Or(err, nfnetlink.List(ctx, conn, unix.NFPROTO_INET, kind, each, append([]string{tableName}, set...)...))
	}
	rules, rewritten := make(map[string][]rule), ""
	list(unix.NFT_MSG_GETRULE, func(as nfnetlink.Attributes) {
		r := rule{comment: nfnetlink.Comment(as.Get(unix.NFTA_RULE_USERDATA), userdata.TypeComment)}
		for _, e := range as.Nested(unix.NFTA_RULE_EXPRESSIONS).All() {
			_, known := nfnetlink.Expression(unix.NFPROTO_INET, e)
			r.exprs = append(r.exprs, known)
		}
		chain := as.Text(unix.NFTA_RULE_CHAIN)
		rules[chain] = append(rules[chain], r)
		if chain == chainUnmapped {
			rewritten += hex.EncodeToString(as.Get(unix.NFTA_RULE_HANDLE))
		}
	})
	list(unix.NFT_MSG_GETTABLE, func(as nfnetlink.Attributes) {
		out = append(out, table{hex.EncodeToString(as.Get(nftaTableHandle)) + rewritten, as.Uint32(unix.NFTA_TABLE_FLAGS)})
	})
	list(unix.NFT_MSG_GETCHAIN, func(as nfnetlink.Attributes) {
		name, h := as.Text(unix.NFTA_CHAIN_NAME), as.Nested(unix.NFTA_CHAIN_HOOK)
		out = append(out, chain{name: name, rules: rules[name], hook: hook{
			kind:     nftables.ChainType(as.Text(unix.NFTA_CHAIN_TYPE)),
			number:   nftables.ChainHook(h.Uint32(unix.NFTA_HOOK_HOOKNUM)),
			priority: nftables.ChainPriority(h.Uint32(unix.NFTA_HOOK_PRIORITY)),
			policy:   nftables.ChainPolicy(as.Uint32(unix.NFTA_CHAIN_POLICY)),
		}})
	})
	list(unix.NFT_MSG_GETSET, func(as nfnetlink.Attributes) {
		if as.Uint32(unix.NFTA_SET_FLAGS)&unix.NFT_SET_ANONYMOUS == 0 {
			out = append(out, decodeSet(as))
		}
	})
	for _, s := range only[set](out) {
		if elements == nil || elements(s.name) {
			list(unix.NFT_MSG_GETSETELEM, func(as nfnetlink.Attributes) {
				for _, e := range as.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS).All() {
					out = append(out, decodeElement(s.name, e))
				}
			}, s.name)
		}
	}
	if err != nil {
		err = fmt.Errorf("read table %s: %w", tableName, explain(err))
	}
	return out, err
}

func decodeSet(as nfnetlink.Attributes) set {
	// NFTA_SET_EXPR is an expression that every element has.
	const flags = unix.NFT_SET_CONSTANT | unix.NFT_SET_INTERVAL | unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL | unix.NFT_SET_OBJECT
	s := set{
		name: as.Text(unix.NFTA_SET_NAME), counters: as.Get(nftables.NFTA_SET_ELEM_EXPRESSIONS) != nil,
		flags: as.Uint32(unix.NFTA_SET_FLAGS) & flags, size: as.Nested(unix.NFTA_SET_DESC).Uint32(unix.NFTA_SET_DESC_SIZE),
	}
	s.key.SetNFTMagic(as.Uint32(unix.NFTA_SET_KEY_TYPE))
	s.key.Bytes = as.Uint32(unix.NFTA_SET_KEY_LEN)
	s.data.SetNFTMagic(as.Uint32(unix.NFTA_SET_DATA_TYPE))
	s.data.Bytes = as.Uint32(unix.NFTA_SET_DATA_LEN)
	if s.data.GetNFTMagic() == unix.NFT_DATA_VERDICT {
		s.data = concat(nftables.TypeVerdict)
	}
	return s
}

func decodeElement(set string, as nfnetlink.Attributes) element {
	data := as.Nested(unix.NFTA_SET_ELEM_DATA)
	verdict := data.Nested(unix.NFTA_DATA_VERDICT)
	jump := verdict.Text(unix.NFTA_VERDICT_CHAIN)
	if jump != "" && int32(verdict.Uint32(unix.NFTA_VERDICT_CODE)) != unix.NFT_JUMP {
		jump = "goto " + jump
	}
	return element{
		set:     set,
		key:     string(as.Nested(unix.NFTA_SET_ELEM_KEY).Get(unix.NFTA_DATA_VALUE)),
		value:   string(data.Get(unix.NFTA_DATA_VALUE)),
		jump:    jump,
		comment: nfnetlink.Comment(as.Get(unix.NFTA_SET_ELEM_USERDATA), userdata.NFTNL_UDATA_SET_ELEM_COMMENT),
		packets: as.Nested(unix.NFTA_SET_ELEM_EXPR).Nested(unix.NFTA_EXPR_DATA).Uint64(unix.NFTA_COUNTER_PACKETS),
	}
}

// nftaTableHandle is NFTA_TABLE_HANDLE (Linux 4.16), which the library lacks.
const nftaTableHandle = 4

// handles returns what identifies the table, see seen, "" if there is no table. An ADD that
// creates the table asks for nothing else: reading all of it takes 0.6 ms.
func (b *Backend) handles(ctx context.Context) (all string, err error) {
	conn, err := nfnetlink.Dial()
	if err == nil {
		defer conn.Close()
		add := func(kind, handle uint16, names ...string) error {
			return nfnetlink.List(ctx, conn, unix.NFPROTO_INET, kind, func(as nfnetlink.Attributes) {
				all += hex.EncodeToString(as.Get(handle))
			}, names...)
		}
		err = cmp.Or(add(unix.NFT_MSG_GETTABLE, nftaTableHandle, tableName), add(unix.NFT_MSG_GETRULE, unix.NFTA_RULE_HANDLE, tableName, chainUnmapped))
	}
	if err != nil && !nfnetlink.Unsupported(err) {
		return "", fmt.Errorf("read table %s: %w", tableName, explain(err))
	}
	return all, nil
}

// KubeProxy reports whether kube-proxy programs this namespace in nftables mode, by
// looking for its tables of families ip and ip6 (Kubernetes 1.29).
func KubeProxy() bool {
	return slices.ContainsFunc(hostport.Families(), func(f hostport.Family) bool {
		_, err := new(nftables.Conn).ListTableOfFamily("kube-proxy", nftables.TableFamily(nfnetlink.Family(f)))
		return err == nil
	})
}
