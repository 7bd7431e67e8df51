package portmap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/netconf"
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

// nftFamily returns the family of portmap's table for f.
func nftFamily(f hostport.Family) nftables.TableFamily {
	if f == hostport.IPv6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// readNftables reads portmap's tables in the calling thread's network
// namespace, and tells others which tables there are.
func readNftables(others foreign) ([]nftTable, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nf_tables: %w", err)
	}
	all, err := again(conn.ListTables)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // a kernel without nf_tables
	}
	if err != nil {
		return nil, fmt.Errorf("list tables of nf_tables: %w", err)
	}
	var out []nftTable
	for _, t := range all {
		others.see("table "+t.Name, "table "+familyNames[t.Family]+" "+t.Name)
		if t.Name != tableName {
			continue
		}
		for _, f := range hostport.Families() {
			if t.Family != nftFamily(f) {
				continue
			}
			table, err := readTable(conn, f, t)
			if err != nil {
				return out, err
			}
			out = append(out, table)
		}
	}
	return out, nil
}

// familyNames are nft's words for the families that are looked at.
var familyNames = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip",
	nftables.TableFamilyIPv6: "ip6",
	nftables.TableFamilyINet: "inet",
}

func readTable(conn *nftables.Conn, f hostport.Family, t *nftables.Table) (nftTable, error) {
	out := nftTable{family: f}
	for _, chain := range ruleChains() {
		rules, err := again(func() ([]*nftables.Rule, error) {
			return conn.GetRules(t, &nftables.Chain{Table: t, Name: chain})
		})
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return out, fmt.Errorf("list rules of table %s %s: %w", familyNames[t.Family], t.Name, err)
		}
		for _, r := range rules {
			id, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			out.rules = append(out.rules, nftRule{
				chain: chain, handle: r.Handle, containerID: id, forward: parseExpressions(f, r.Exprs),
			})
		}
	}
	return out, nil
}

// again repeats a dump that another program's commit interrupted.
func again[T any](list func() ([]T, error)) ([]T, error) {
	const tries = 10
	for n := 1; ; n++ {
		out, err := list()
		if n == tries || !errors.Is(err, unix.EINTR) {
			return out, err
		}
		time.Sleep(time.Duration(n) * time.Millisecond)
	}
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
	table := &nftables.Table{Name: tableName, Family: nftFamily(t.family)}
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
