package portmap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/nfnetlink"
	nft "github.com/hostport-cni/hostport/internal/nftables"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// portmap's table, one of family ip and one of ip6, and the chains with rules
// of containers: the rule's comment is the container ID. Before v1.7,
// hostip_hostports had the mappings with a host IP.
const tableName = "cni_hostport"

func ruleChains() []string { return []string{"hostports", "hostip_hostports", "masquerading"} }

// nftTable is portmap's table of one family.
type nftTable struct {
	family hostport.Family
	rules  []nftRule
}

// nftRule is a rule in one of ruleChains.
type nftRule struct {
	chain  string
	handle uint64
	// containerID is "" if the rule is not portmap's.
	containerID string
	// forward is what the rule does; without a target it masquerades.
	forward hostport.Forward
}

// readNftables reads portmap's tables in the calling thread's network namespace, and
// tells others which tables there are. A kernel without nf_tables has none.
func readNftables(ctx context.Context, others foreign) ([]nftTable, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open nf_tables: %w", err)
	}
	defer conn.Close()
	var out []nftTable
	err = nfnetlink.List(ctx, conn, unix.NFT_MSG_GETTABLE, unix.NFPROTO_UNSPEC, nil, func(family byte, as nfnetlink.Attributes) {
		name := as.Text(unix.NFTA_TABLE_NAME)
		others.see("table "+name, "table "+familyNames[family]+" "+name)
		for _, f := range hostport.Families() {
			if name == tableName && family == nfnetlink.Family(f) {
				out = append(out, nftTable{family: f})
			}
		}
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list tables of nf_tables: %w", err)
	}
	name := []netlink.Attribute{nfnetlink.Name(unix.NFTA_RULE_TABLE, tableName)}
	for i := range out {
		t := &out[i]
		err := nfnetlink.List(ctx, conn, unix.NFT_MSG_GETRULE, nfnetlink.Family(t.family), name, func(_ byte, as nfnetlink.Attributes) { t.add(as) })
		if err != nil {
			return out, fmt.Errorf("list rules of table %s %s: %w", familyNames[nfnetlink.Family(t.family)], tableName, err)
		}
	}
	return out, nil
}

// familyNames are nft's words for the families that are looked at.
var familyNames = map[byte]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet"}

// add adds a rule as it was listed, if it is in a chain that has rules of
// containers.
func (t *nftTable) add(as nfnetlink.Attributes) {
	r := nftRule{
		chain: as.Text(unix.NFTA_RULE_CHAIN), handle: as.Uint64(unix.NFTA_RULE_HANDLE),
		containerID: nfnetlink.Comment(as.Get(unix.NFTA_RULE_USERDATA), userdata.TypeComment),
	}
	if as.Text(unix.NFTA_RULE_TABLE) != tableName || !slices.Contains(ruleChains(), r.chain) {
		return
	}
	var exprs []expr.Any
	for _, data := range as.Nested(unix.NFTA_RULE_EXPRESSIONS).All() {
		e := nfnetlink.Attributes(data)
		exprs = append(exprs, nft.DecodeExpression(nfnetlink.Family(t.family), e.Text(unix.NFTA_EXPR_NAME), e.Get(unix.NFTA_EXPR_DATA)))
	}
	r.forward = parseExpressions(t.family, exprs)
	t.rules = append(t.rules, r)
}

// parseExpressions reads a rule "[ip daddr HOST] PROTOCOL dport PORT dnat to
// ADDRESS:PORT". Of any other rule the result has no target.
func parseExpressions(f hostport.Family, exprs []expr.Any) hostport.Forward {
	var fw hostport.Forward
	var loaded expr.Any
	registers := map[uint32][]byte{}
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta, *expr.Payload:
			loaded = e
		case *expr.Cmp:
			if e.Op == expr.CmpOpEq {
				compare(&fw, f, loaded, e.Data)
			}
		case *expr.Immediate:
			registers[e.Register] = e.Data
		case *expr.NAT:
			addr, ok := netip.AddrFromSlice(registers[e.RegAddrMin])
			port := registers[e.RegProtoMin]
			if e.Type == expr.NATTypeDestNAT && ok && len(port) >= 2 {
				fw.To = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port))
			}
		}
	}
	return fw
}

// Places of what portmap compares, in bytes.
const (
	destinationOffset4 = 16
	destinationOffset6 = 24
	dportOffset        = 2
)

// compare takes over the value that a loaded field is compared with.
func compare(fw *hostport.Forward, f hostport.Family, loaded expr.Any, data []byte) {
	switch l := loaded.(type) {
	case *expr.Meta:
		for _, p := range []hostport.Protocol{hostport.TCP, hostport.UDP, hostport.SCTP} {
			if l.Key == expr.MetaKeyL4PROTO && len(data) == 1 && data[0] == p.Number() {
				fw.Protocol = p
			}
		}
	case *expr.Payload:
		destination := uint32(destinationOffset4)
		if f == hostport.IPv6 {
			destination = destinationOffset6
		}
		switch {
		case l.Base == expr.PayloadBaseTransportHeader && l.Offset == dportOffset && len(data) == 2:
			fw.HostPort = binary.BigEndian.Uint16(data)
		case l.Base == expr.PayloadBaseNetworkHeader && l.Offset == destination:
			fw.HostIP, _ = netip.AddrFromSlice(data)
		}
	}
}

// tell adds the containers that rules name, in the rules' order.
func (t nftTable) tell(all *owners) {
	for _, r := range t.rules {
		if r.containerID == "" {
			continue
		}
		o := all.get(owner{
			containerID: r.containerID, backend: backend.Nftables,
			options: hostport.Options{MarkMasqBit: netconf.DefaultMarkMasqBit},
		})
		if r.forward.To.IsValid() {
			o.forwards = append(o.forwards, r.forward)
		} else {
			o.options.SNAT = true
		}
	}
}

// remove deletes the rules of the containers for which gone returns true, in one
// transaction, and the table if no other rule is left.
func (t nftTable) remove(gone func(containerID string) bool) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nf_tables: %w", err)
	}
	var doomed []nftRule
	for _, r := range t.rules {
		if r.containerID != "" && gone(r.containerID) {
			doomed = append(doomed, r)
		}
	}
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamily(nfnetlink.Family(t.family))}
	switch len(doomed) {
	case len(t.rules):
		conn.DelTable(table)
	case 0:
		return nil
	default:
		for _, r := range doomed {
			if err := conn.DelRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: r.chain, Table: table}, Handle: r.handle}); err != nil {
				return err
			}
		}
	}
	return conn.Flush()
}
