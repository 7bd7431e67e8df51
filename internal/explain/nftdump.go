package explain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// nftReader reads nf_tables through one netlink socket. The library's own
// listings are not used: they leave out expressions that they do not know,
// without a word, and ask for rules chain by chain.
type nftReader struct{ conn *netlink.Conn }

func newNFTReader() (*nftReader, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open nf_tables: %w", err)
	}
	return &nftReader{conn}, nil
}

func (r *nftReader) close() { _ = r.conn.Close() }

// maxDumps bounds how often a listing that others disturb is read again.
const maxDumps = 5

// dump hands every message of a listing to each, without its header of four
// bytes. Objects that do not exist have none.
func (r *nftReader) dump(kind uint16, family byte, attrs []netlink.Attribute, each func(family byte, ad *netlink.AttributeDecoder) error) error {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return err
	}
	for range maxDumps {
		msgs, err := r.conn.Execute(netlink.Message{
			Header: netlink.Header{
				Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
				Flags: netlink.Request | netlink.Dump,
			},
			Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
		})
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list nf_tables: %w", err)
		}
		interrupted := false
		for _, m := range msgs {
			interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
		}
		if interrupted {
			continue
		}
		for _, m := range msgs {
			if len(m.Data) < 4 {
				continue
			}
			ad, err := netlink.NewAttributeDecoder(m.Data[4:])
			if err != nil {
				return err
			}
			ad.ByteOrder = binary.BigEndian
			if err := each(m.Data[0], ad); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("list nf_tables: interrupted %d times", maxDumps)
}

var nftFamilies = map[byte]string{ //nolint:gochecknoglobals // a constant table
	unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet",
	unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_ARP: "arp",
}

// nftTables are tables as they are read: chains and sets at first, rules when they
// are asked for.
type nftTables struct {
	reader *nftReader
	all    ruleset
	byName map[string]*table
	sets   map[string]map[string]*nftSet
}

func (n *nftTables) table(family byte, name string) *table {
	key := nftFamilies[family] + " " + name
	t := n.byName[key]
	if t == nil {
		t = &table{origin: originNFT, family: nftFamilies[family], name: name, chains: map[string]*chain{}}
		n.byName[key] = t
		n.all = append(n.all, t)
	}
	return t
}

// read returns the tables that packets of some families pass, without their rules.
func (r *nftReader) read(families ...hostport.Family) (*nftTables, error) {
	n := &nftTables{reader: r, byName: map[string]*table{}, sets: map[string]map[string]*nftSet{}}
	protocols := []byte{unix.NFPROTO_INET}
	for _, f := range families {
		protocols = append(protocols, map[hostport.Family]byte{hostport.IPv4: unix.NFPROTO_IPV4, hostport.IPv6: unix.NFPROTO_IPV6}[f])
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
	return n.reader.dump(unix.NFT_MSG_GETCHAIN, protocol, nil, func(family byte, ad *netlink.AttributeDecoder) error {
		c := &chain{policy: actionAccept}
		table, hook := "", -1
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_CHAIN_TABLE:
				table = ad.String()
			case unix.NFTA_CHAIN_NAME:
				c.name = ad.String()
			case unix.NFTA_CHAIN_TYPE:
				c.kind = ad.String()
			case unix.NFTA_CHAIN_POLICY:
				if ad.Uint32() == 0 {
					c.policy = actionDrop
				}
			case unix.NFTA_CHAIN_HOOK:
				ad.Nested(func(n *netlink.AttributeDecoder) error {
					for n.Next() {
						switch n.Type() {
						case unix.NFTA_HOOK_HOOKNUM:
							hook = int(n.Uint32())
						case unix.NFTA_HOOK_PRIORITY:
							c.priority = int(int32(n.Uint32()))
						}
					}
					return nil
				})
			}
		}
		c.table = n.table(family, table)
		if hook >= 0 && hook < 5 {
			c.hook = [...]string{hookPrerouting, hookInput, hookForward, hookOutput, hookPostrouting}[hook]
		}
		c.table.chains[c.name] = c
		return ad.Err()
	})
}

func (n *nftTables) readRules(t *table) error {
	family := byte(unix.NFPROTO_INET)
	for number, name := range nftFamilies {
		if name == t.family {
			family = number
		}
	}
	only := []netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(t.name + "\x00")}}
	return n.reader.dump(unix.NFT_MSG_GETRULE, family, only, func(_ byte, ad *netlink.AttributeDecoder) error {
		rule := &nftRule{family: family}
		var table, chain string
		var handle uint64
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
				table = ad.String()
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			case unix.NFTA_RULE_HANDLE:
				handle = ad.Uint64()
			case unix.NFTA_RULE_EXPRESSIONS:
				rule.raw = ad.Bytes()
			case unix.NFTA_RULE_USERDATA:
				rule.comment, _ = userdata.GetString(ad.Bytes(), userdata.TypeComment)
			}
		}
		rule.sets = n.sets[t.family+" "+t.name]
		// Kernels before 4.8 list all tables.
		if c := t.chains[chain]; c != nil && table == t.name {
			c.rules = append(c.rules, rule)
			c.handles = append(c.handles, handle)
		}
		return ad.Err()
	})
}

// nftSet is a set or map. Its elements are read when a rule first asks.
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
	verdict  effect
	isJump   bool
	comment  string
	packets  *uint64 // its counter, nil if it has none
}

func (n *nftTables) readSets(protocol byte) error {
	return n.reader.dump(unix.NFT_MSG_GETSET, protocol, nil, func(family byte, ad *netlink.AttributeDecoder) error {
		s := &nftSet{}
		var table string
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_SET_TABLE:
				table = ad.String()
			case unix.NFTA_SET_NAME:
				s.name = ad.String()
			case unix.NFTA_SET_DESC:
				ad.Nested(s.decodeFields)
			case unix.NFTA_SET_FLAGS:
				flags := ad.Uint32()
				s.anonymous = flags&unix.NFT_SET_ANONYMOUS != 0
				s.isMap = flags&unix.NFT_SET_MAP != 0
				s.interval = flags&unix.NFT_SET_INTERVAL != 0
			}
		}
		s.read = func() ([]nftElement, error) { return n.reader.readElements(family, table, s.name) }
		key := nftFamilies[family] + " " + table
		if n.sets[key] == nil {
			n.sets[key] = map[string]*nftSet{}
		}
		n.sets[key][s.name] = s
		return ad.Err()
	})
}

// Attributes that the unix package lacks.
const (
	nftaSetDescConcat = 2  // NFTA_SET_DESC_CONCAT
	nftaSetFieldLen   = 1  // NFTA_SET_FIELD_LEN
	nftaSetElemKeyEnd = 10 // NFTA_SET_ELEM_KEY_END
)

func (s *nftSet) decodeFields(desc *netlink.AttributeDecoder) error {
	for desc.Next() {
		if desc.Type() != nftaSetDescConcat {
			continue
		}
		desc.Nested(func(list *netlink.AttributeDecoder) error {
			for list.Next() {
				list.Nested(func(field *netlink.AttributeDecoder) error {
					for field.Next() {
						if field.Type() == nftaSetFieldLen {
							s.fields = append(s.fields, int(field.Uint32()))
						}
					}
					return nil
				})
			}
			return nil
		})
	}
	return nil
}

func (r *nftReader) readElements(family byte, table, set string) ([]nftElement, error) {
	var out []nftElement
	attrs := []netlink.Attribute{
		{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: []byte(table + "\x00")},
		{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: []byte(set + "\x00")},
	}
	err := r.dump(unix.NFT_MSG_GETSETELEM, family, attrs, func(_ byte, ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(e *netlink.AttributeDecoder) error {
						out = append(out, decodeElement(e))
						return nil
					})
				}
				return nil
			})
		}
		return ad.Err()
	})
	return out, err
}

func decodeVerdict(ad *netlink.AttributeDecoder) effect {
	var e effect
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CODE:
			e.action = verdictAction(int32(ad.Uint32()))
		case unix.NFTA_VERDICT_CHAIN:
			e.chain = ad.String()
		}
	}
	return e
}

func verdictAction(code int32) action {
	switch code {
	case unix.NFT_RETURN:
		return actionReturn
	case unix.NFT_JUMP:
		return actionJump
	case unix.NFT_GOTO:
		return actionGoto
	case 0:
		return actionDrop
	case 1:
		return actionAccept
	case 3:
		return actionQueue
	default:
		return actionNext
	}
}

// compat reports whether iptables wrote the table: its tools list such tables,
// and their rules hold expressions that only they can print.
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
