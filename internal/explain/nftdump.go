package explain

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// nftReader reads nf_tables through one netlink socket.
type nftReader struct{ conn *netlink.Conn }

func newNFTReader() (*nftReader, error) {
	conn, err := nfnetlink.Dial()
	if err != nil {
		return nil, fmt.Errorf("open nf_tables: %w", err)
	}
	return &nftReader{conn}, nil
}

func (r *nftReader) close() { _ = r.conn.Close() }

// supported returns an error if the kernel has no nf_tables: listings are empty
// then. It requests the ruleset's generation, which always exists.
func (r *nftReader) supported() error {
	_, err := r.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	return err
}

// list calls each for every object of a listing.
func (r *nftReader) list(family byte, kind uint16, each func(nfnetlink.Attributes), names ...string) error {
	if err := nfnetlink.List(context.Background(), r.conn, family, kind, each, names...); err != nil {
		return fmt.Errorf("list nf_tables: %w", err)
	}
	return nil
}

var nftFamilies = map[byte]string{ //nolint:gochecknoglobals // a constant table
	unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet",
	unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_ARP: "arp",
}

// nftTables holds tables that are read in two steps: chains and sets first,
// rules on demand.
type nftTables struct {
	reader *nftReader
	all    ruleset
	byName map[string]*table
	sets   map[*table]map[string]*nftSet // by name
}

func (n *nftTables) table(family byte, name string) *table {
	key := nftFamilies[family] + " " + name
	t := n.byName[key]
	if t == nil {
		t = &table{origin: originNFT, family: nftFamilies[family], number: family, name: name, chains: map[string]*chain{}}
		n.byName[key] = t
		n.all = append(n.all, t)
	}
	return t
}

// read returns the tables that packets of the given families pass, without
// their rules.
func (r *nftReader) read(families ...hostport.Family) (*nftTables, error) {
	n := &nftTables{reader: r, byName: map[string]*table{}, sets: map[*table]map[string]*nftSet{}}
	protocols := []byte{unix.NFPROTO_INET}
	for _, f := range families {
		protocols = append(protocols, nfnetlink.Family(f))
	}
	for _, p := range protocols {
		for _, read := range []func(byte) error{n.readChains, n.readSets} {
			if err := read(p); err != nil {
				return nil, err
			}
		}
	}
	return n, nil
}

// fill reads the rules of the tables for which want returns true.
func (n *nftTables) fill(want func(*table) bool) error {
	for _, t := range n.all {
		if want(t) {
			if err := n.readRules(t); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *nftTables) readChains(protocol byte) error {
	return n.reader.list(protocol, unix.NFT_MSG_GETCHAIN, func(as nfnetlink.Attributes) {
		c := &chain{
			table: n.table(protocol, as.Text(unix.NFTA_CHAIN_TABLE)), name: as.Text(unix.NFTA_CHAIN_NAME),
			kind: as.Text(unix.NFTA_CHAIN_TYPE), policy: actionAccept,
		}
		if as.Get(unix.NFTA_CHAIN_POLICY) != nil {
			c.policy = verdictAction(int32(as.Uint32(unix.NFTA_CHAIN_POLICY)))
		}
		hooks := [...]string{hookPrerouting, hookInput, hookForward, hookOutput, hookPostrouting}
		if hook := as.Nested(unix.NFTA_CHAIN_HOOK); hook != nil {
			c.priority = int(int32(hook.Uint32(unix.NFTA_HOOK_PRIORITY)))
			if number := hook.Uint32(unix.NFTA_HOOK_HOOKNUM); number < uint32(len(hooks)) {
				c.hook = hooks[number]
			}
		}
		c.table.chains[c.name] = c
	})
}

func (n *nftTables) readRules(t *table) error {
	return n.reader.list(t.number, unix.NFT_MSG_GETRULE, func(as nfnetlink.Attributes) {
		c := t.chains[as.Text(unix.NFTA_RULE_CHAIN)]
		if c == nil {
			return
		}
		r := &nftRule{family: t.number, raw: as.Nested(unix.NFTA_RULE_EXPRESSIONS), sets: n.sets[t]}
		r.comment = nfnetlink.Comment(as.Get(unix.NFTA_RULE_USERDATA), userdata.TypeComment)
		c.rules = append(c.rules, r)
		c.handles = append(c.handles, as.Uint64(unix.NFTA_RULE_HANDLE))
	}, t.name)
}

// nftSet is a set or map. Its elements are read on first use.
type nftSet struct {
	name      string
	anonymous bool
	isMap     bool
	interval  bool
	fields    []int // lengths of a concatenation's fields

	read     func() ([]nftElement, error)
	loaded   bool
	elements []nftElement
	exact    map[string]int
	err      error
}

// nftElement is an element: a key or an interval of keys, and what it maps to.
type nftElement struct {
	key, end []byte // end is nil unless the kernel stores both ends in one element
	last     bool   // the first key after an interval
	value    []byte
	verdict  *effect
	packets  *uint64 // its counter, nil if it has none
}

// Attributes that the unix package does not define.
const (
	nftaSetDescConcat = 2  // NFTA_SET_DESC_CONCAT
	nftaSetFieldLen   = 1  // NFTA_SET_FIELD_LEN
	nftaSetElemKeyEnd = 10 // NFTA_SET_ELEM_KEY_END
)

func (n *nftTables) readSets(protocol byte) error {
	return n.reader.list(protocol, unix.NFT_MSG_GETSET, func(as nfnetlink.Attributes) {
		t, flags := n.table(protocol, as.Text(unix.NFTA_SET_TABLE)), as.Uint32(unix.NFTA_SET_FLAGS)
		s := &nftSet{
			name: as.Text(unix.NFTA_SET_NAME), anonymous: flags&unix.NFT_SET_ANONYMOUS != 0,
			isMap: flags&unix.NFT_SET_MAP != 0, interval: flags&unix.NFT_SET_INTERVAL != 0,
		}
		for _, field := range as.Nested(unix.NFTA_SET_DESC).Nested(nftaSetDescConcat).All() {
			s.fields = append(s.fields, int(nfnetlink.Attributes(field).Uint32(nftaSetFieldLen)))
		}
		s.read = func() ([]nftElement, error) { return n.reader.readElements(t, s.name) }
		if n.sets[t] == nil {
			n.sets[t] = map[string]*nftSet{}
		}
		n.sets[t][s.name] = s
	})
}

func (r *nftReader) readElements(t *table, set string) (out []nftElement, err error) {
	err = r.list(t.number, unix.NFT_MSG_GETSETELEM, func(as nfnetlink.Attributes) {
		for _, e := range as.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS).All() {
			out = append(out, decodeElement(e))
		}
	}, t.name, set)
	return out, err
}

func decodeVerdict(as nfnetlink.Attributes) effect {
	return effect{action: verdictAction(int32(as.Uint32(unix.NFTA_VERDICT_CODE))), chain: as.Text(unix.NFTA_VERDICT_CHAIN)}
}

func verdictAction(code int32) action {
	switch code {
	case unix.NFT_RETURN:
		return actionReturn
	case unix.NFT_JUMP:
		return actionJump
	case unix.NFT_GOTO:
		return actionGoto
	case 0: // NF_DROP
		return actionDrop
	case 1: // NF_ACCEPT
		return actionAccept
	case 3: // NF_QUEUE
		return actionQueue
	default:
		return actionNext
	}
}

// compat reports whether iptables wrote the table: its tools list such tables,
// and only they can print the expressions in their rules.
func (t *table) compat() bool {
	if t.family != "ip" && t.family != "ip6" || iptPriorities[t.name] == nil {
		return false
	}
	for _, c := range t.chains {
		if c.hook != "" && c.name != strings.ToUpper(c.hook) {
			return false
		}
	}
	return true
}
