package portmap

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// portmap's tables, in families ip and ip6, and the chains with rules of
// containers: the rule's comment is the container ID. Before v1.7,
// hostip_hostports held the mappings with a host IP.
const (
	tableName         = "cni_hostport"
	masqueradingChain = "masquerading"
)

func ruleChains() []string { return []string{"hostports", "hostip_hostports", masqueradingChain} }

// nftTable is portmap's table of one family, with its rules in ruleChains.
type nftTable struct {
	*nftables.Table
	rules []nftRule
}

// nftRule is a rule. It translates to an attachment, or masquerades for all
// attachments of a container, or has no owner.
type nftRule struct {
	*nftables.Rule
	served      *Served
	masquerades string // the container's ID
}

// readNftables reads portmap's tables in the calling thread's network namespace, and
// adds the containers that their rules name, and the tables of other programs to
// others. A kernel without nf_tables has no tables.
func (f *Found) readNftables(ctx context.Context, others foreign) error {
	conn, err := nfnetlink.Dial()
	if err != nil {
		return fmt.Errorf("open nf_tables: %w", err)
	}
	defer conn.Close()
	for family, word := range familyNames {
		err := nfnetlink.List(ctx, conn, family, unix.NFT_MSG_GETTABLE, func(as nfnetlink.Attributes) {
			name := as.Text(unix.NFTA_TABLE_NAME)
			others.see("table "+name, "table "+word+" "+name)
		})
		if err != nil {
			return fmt.Errorf("list tables of nf_tables: %w", err)
		}
	}
	for _, family := range hostport.Families() {
		number := nfnetlink.Family(family)
		t := nftTable{Table: &nftables.Table{Name: tableName, Family: nftables.TableFamily(number)}}
		err := nfnetlink.List(ctx, conn, number, unix.NFT_MSG_GETRULE, func(as nfnetlink.Attributes) { f.add(&t, as) }, tableName)
		if err != nil {
			return fmt.Errorf("list %s rules of table %s: %w", family, tableName, err)
		}
		f.tables = append(f.tables, t)
	}
	return nil
}

// familyNames holds nft's names of the families that are read.
var familyNames = map[byte]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet"}

// add adds a listed rule, if it is in a chain with rules of containers, and its
// mapping to the container. Rules carry only the container's ID. Runtimes
// attach a container's lo with the same mappings as its eth0: the address shows
// which attachment a rule is for.
func (f *Found) add(t *nftTable, as nfnetlink.Attributes) {
	chain := as.Text(unix.NFTA_RULE_CHAIN)
	if !slices.Contains(ruleChains(), chain) {
		return
	}
	r := nftRule{Rule: &nftables.Rule{
		Table: t.Table, Chain: &nftables.Chain{Name: chain, Table: t.Table}, Handle: as.Uint64(unix.NFTA_RULE_HANDLE),
	}}
	id := nfnetlink.Comment(as.Get(unix.NFTA_RULE_USERDATA), userdata.TypeComment)
	m, to := parse(byte(t.Family), as.Nested(unix.NFTA_RULE_EXPRESSIONS))
	switch {
	case id != "" && to.IsValid():
		r.served = f.programmed(backend.Nftables, func(s *Served) bool {
			return s.ContainerID == id && (!s.Cached && s.chain == "" || s.has(to.Addr()))
		})
		r.served.ContainerID = id
		r.served.add(m, to)
	case chain == masqueradingChain:
		r.masquerades = id
	}
	t.rules = append(t.rules, r)
}

// parse reads the expressions of a rule "[ip daddr HOST] PROTOCOL dport PORT
// dnat to ADDRESS:PORT". For any other rule it returns no destination.
func parse(family byte, exprs nfnetlink.Attributes) (m hostport.Mapping, to netip.AddrPort) {
	var loaded expr.Any
	registers := map[uint32][]byte{}
	for _, data := range exprs.All() {
		_, e := nfnetlink.Expression(family, data)
		switch e := e.(type) {
		case *expr.Meta, *expr.Payload:
			loaded = e
		case *expr.Cmp:
			if e.Op == expr.CmpOpEq {
				compare(&m, loaded, e.Data)
			}
		case *expr.Immediate:
			registers[e.Register] = e.Data
		case *expr.NAT:
			addr, ok := netip.AddrFromSlice(registers[e.RegAddrMin])
			port := registers[e.RegProtoMin]
			if e.Type == expr.NATTypeDestNAT && ok && len(port) >= 2 {
				to = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port))
			}
		}
	}
	return m, to
}

// compare stores the value that a loaded field is compared with.
func compare(m *hostport.Mapping, loaded expr.Any, data []byte) {
	switch l := loaded.(type) {
	case *expr.Meta:
		for _, p := range []hostport.Protocol{hostport.TCP, hostport.UDP, hostport.SCTP} {
			if l.Key == expr.MetaKeyL4PROTO && len(data) == 1 && data[0] == p.Number() {
				m.Protocol = p
			}
		}
	case *expr.Payload:
		switch {
		case l.Base == expr.PayloadBaseTransportHeader && l.Offset == 2 && len(data) == 2:
			m.HostPort = binary.BigEndian.Uint16(data)
		case l.Base == expr.PayloadBaseNetworkHeader && (l.Offset == 16 || l.Offset == 24): // of IPv4 and IPv6
			m.HostIP, _ = netip.AddrFromSlice(data)
		}
	}
}

// remove deletes the rules for which gone returns true, in one transaction, and
// the table if no other rule is left.
func (t nftTable) remove(gone func(nftRule) bool) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nf_tables: %w", err)
	}
	left := false
	for _, r := range t.rules {
		if !gone(r) {
			left = true
		} else if err := conn.DelRule(r.Rule); err != nil {
			return err
		}
	}
	if !left && len(t.rules) > 0 {
		conn.DelTable(t.Table)
	}
	return conn.Flush()
}
