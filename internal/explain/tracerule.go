package explain

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// traceTable is the table of the rule that enables tracing.
const traceTable = "hostport-trace"

// tableFlagOwner is NFT_TABLE_F_OWNER (Linux 5.12): the kernel deletes the
// table with the socket that created it.
const tableFlagOwner = 2

// traceRule adds the rule. It runs before everything else, including connection
// tracking, in the first hooks of packets to the node.
func traceRule(q *Question) (remove func(), err error) {
	for _, flags := range []uint32{tableFlagOwner, 0} {
		var conn *nftables.Conn
		conn, err = nftables.New(nftables.AsLasting())
		if err != nil {
			return nil, fmt.Errorf("open nf_tables: %w", err)
		}
		t := conn.AddTable(&nftables.Table{Name: traceTable, Family: nftables.TableFamilyINet, Flags: nftables.TableFlags(flags)})
		for _, hook := range []*nftables.ChainHook{nftables.ChainHookPrerouting, nftables.ChainHookOutput} {
			const first = nftables.ChainPriority(-400)
			name := map[nftables.ChainHook]string{*nftables.ChainHookPrerouting: "prerouting", *nftables.ChainHookOutput: "output"}[*hook]
			c := conn.AddChain(&nftables.Chain{
				Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRef(first),
			})
			conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: traceExprs(q)})
		}
		err = conn.Flush()
		if err == nil {
			return func() {
				conn.DelTable(t)
				_ = conn.Flush()
				_ = conn.CloseLasting()
			}, nil
		}
		_ = conn.CloseLasting()
		if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("add table %s: %w: another trace may be under way", traceTable, err)
		}
	}
	return nil, fmt.Errorf("add table %s: %w", traceTable, err)
}

// traceExprs returns expressions that match packets to the port on an address
// of the node, for TCP only those that open a connection.
func traceExprs(q *Question) []expr.Any {
	equal := func(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }
	out := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{q.Protocol.Number()}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		equal([]byte{byte(q.Port >> 8), byte(q.Port)}),
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true}, equal(native32(unix.RTN_LOCAL)),
	}
	if q.Protocol == hostport.TCP {
		const flagsAt, syn, ack = 13, 0x02, 0x10
		out = append(out,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flagsAt, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}},
			equal([]byte{syn}))
	}
	if q.From.IsValid() {
		at, proto := uint32(12), nfnetlink.Family(hostport.FamilyOf(q.From))
		if q.From.Is6() {
			at = 8
		}
		addr := q.From.AsSlice()
		out = append(out,
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{proto}),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: uint32(len(addr))}, equal(addr))
	}
	return append(out,
		&expr.Immediate{Register: 1, Data: []byte{1}},
		&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: 1})
}
