package explain

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nftables"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// nftRule is a rule of nf_tables. Its expressions are decoded when it is first
// asked about.
type nftRule struct {
	family  byte
	raw     nftables.Attributes
	sets    map[string]*nftSet
	comment string

	decoded bool
	exprs   []nftExpr
}

// nftExpr is an expression; any is nil for one that this tool does not know.
type nftExpr struct {
	name string
	any  expr.Any
}

// expressions decodes the rule.
func (r *nftRule) expressions() []nftExpr {
	if r.decoded {
		return r.exprs
	}
	r.decoded = true
	for _, e := range r.raw.All() {
		name, data := nftables.Attributes(e).Text(unix.NFTA_EXPR_NAME), nftables.Attributes(e).Get(unix.NFTA_EXPR_DATA)
		r.exprs = append(r.exprs, nftExpr{name, nftables.DecodeExpression(r.family, name, data)})
	}
	return r.exprs
}

// registers are those of the kernel's virtual machine: 16 words of 4 bytes. A
// word of which the value is not known has a reason.
type registers struct {
	data   [64]byte
	doubts [16]string
}

// offset is where a register begins: 1 to 4 have 16 bytes, 8 to 23 have 4.
func offset(reg uint32) int {
	if reg >= unix.NFT_REG32_00 {
		return int(reg-unix.NFT_REG32_00) * 4
	}
	return int(reg-1) * 16
}

func (r *registers) set(reg uint32, value []byte, doubt string) {
	at := offset(reg)
	if at < 0 || at+len(value) > len(r.data) {
		return
	}
	padded := (len(value) + 3) &^ 3
	clear(r.data[at:min(at+padded, len(r.data))])
	copy(r.data[at:], value)
	for i := at / 4; i < (at+padded)/4; i++ {
		r.doubts[i] = doubt
	}
}

func (r *registers) get(reg uint32, size int) (value []byte, doubt string) {
	at := offset(reg)
	if at < 0 || at+size > len(r.data) {
		return make([]byte, size), "register out of range"
	}
	for i := at / 4; i < (at+size+3)/4; i++ {
		if r.doubts[i] != "" {
			doubt = r.doubts[i]
		}
	}
	return r.data[at : at+size], doubt
}

// machine runs the expressions of one rule on one packet.
type machine struct {
	registers
	p    *Packet
	rule *nftRule
	// doubt says why it is not known whether the rule matched so far.
	doubt string
	// packets is the counter of the element that was found last.
	packets *uint64
}

// Outcomes of one expression.
type outcome int

const (
	outcomeGo outcome = iota
	outcomeBreak
	outcomeDone
)

func (r *nftRule) apply(p *Packet) effect {
	before := *p
	m := &machine{p: p, rule: r}
	for _, e := range r.expressions() {
		out, eff := m.step(e)
		switch out {
		case outcomeBreak:
			if m.doubt != "" {
				*p = before
			}
			return effect{}
		case outcomeDone:
			eff.doubt, eff.packets = m.doubt, m.packets
			if m.doubt != "" {
				*p = before
			}
			return eff
		}
	}
	if m.doubt != "" {
		*p = before
	}
	return effect{}
}

// step runs one expression. An unknown one may not match.
func (m *machine) step(e nftExpr) (outcome, effect) {
	switch x := e.any.(type) {
	case *expr.Payload:
		m.payload(x)
		return outcomeGo, effect{}
	case *expr.Meta:
		return m.meta(x), effect{}
	case *expr.Ct:
		return m.ct(x), effect{}
	case *expr.Fib:
		return m.fib(x), effect{}
	case *expr.Cmp:
		value, doubt := m.get(x.Register, len(x.Data))
		return m.test(compare(x.Op, bytes.Compare(value, x.Data)), doubt), effect{}
	case *expr.Range:
		value, doubt := m.get(x.Register, len(x.FromData))
		in := bytes.Compare(x.FromData, value) <= 0 && bytes.Compare(value, x.ToData) <= 0
		return m.test(in == (x.Op == expr.CmpOpEq), doubt), effect{}
	case *expr.Bitwise:
		m.bitwise(x)
		return outcomeGo, effect{}
	case *expr.Byteorder:
		m.byteorder(x)
		return outcomeGo, effect{}
	case *expr.Immediate:
		m.set(x.Register, x.Data, "")
		return outcomeGo, effect{}
	case *expr.Lookup:
		return m.lookup(x)
	case *expr.Verdict:
		eff := effect{action: verdictAction(int32(x.Kind)), chain: x.Chain}
		if eff.action == actionNext {
			return outcomeBreak, effect{} // continue, or break
		}
		return outcomeDone, eff
	case *expr.NAT:
		return outcomeDone, m.nat(x)
	case *expr.Masq:
		return outcomeDone, effect{action: actionMasquerade}
	case *expr.Redir:
		return outcomeDone, effect{action: actionRedirect, to: netip.AddrPortFrom(netip.IPv4Unspecified(), m.port(x.RegisterProtoMin))}
	case *expr.TProxy:
		return outcomeDone, effect{action: actionRedirect, to: netip.AddrPortFrom(netip.IPv4Unspecified(), m.port(x.RegPort))}
	case *expr.Reject:
		return outcomeDone, effect{action: actionReject}
	case *expr.Limit:
		return m.test(true, "a rate limit"), effect{}
	case *expr.Numgen:
		m.set(x.Register, make([]byte, 4), "chosen at random")
		return outcomeGo, effect{}
	case *expr.Hash:
		m.set(x.DestRegister, make([]byte, 4), "chosen by a hash")
		return outcomeGo, effect{}
	case *expr.Dynset:
		return outcomeGo, effect{}
	}
	return m.other(e.name)
}

// other runs expressions without operands that matter, and those that are not
// known.
func (m *machine) other(name string) (outcome, effect) {
	switch name {
	case "counter", "log", "objref", "last", "dup", "flow_offload", "secmark", "tracing":
		return outcomeGo, effect{}
	case "notrack":
		if m.doubt == "" && m.p.State == StateNone {
			m.p.State = StateUntracked
		}
		return outcomeGo, effect{}
	case "queue":
		return outcomeDone, effect{action: actionQueue}
	case "synproxy", "fwd":
		return outcomeDone, effect{action: actionReject}
	default:
		return m.test(true, "this tool does not evaluate the expression "+name), effect{}
	}
}

// test goes on if the rule still matches.
func (m *machine) test(yes bool, doubt string) outcome {
	if doubt != "" {
		m.doubt = doubt
		return outcomeGo
	}
	if !yes {
		return outcomeBreak
	}
	return outcomeGo
}

func compare(op expr.CmpOp, order int) bool {
	switch op {
	case expr.CmpOpEq:
		return order == 0
	case expr.CmpOpNeq:
		return order != 0
	case expr.CmpOpLt:
		return order < 0
	case expr.CmpOpLte:
		return order <= 0
	case expr.CmpOpGt:
		return order > 0
	default:
		return order >= 0
	}
}

// payload loads a part of the packet into a register.
func (m *machine) payload(x *expr.Payload) {
	if x.OperationType == expr.PayloadWrite {
		return // a changed header decides nothing here
	}
	var header []byte
	doubt := ""
	switch x.Base {
	case expr.PayloadBaseNetworkHeader:
		header = m.p.networkHeader()
	case expr.PayloadBaseTransportHeader:
		header = m.p.transportHeader()
		if x.Offset == 0 && m.p.State != StateEstablished {
			doubt = "the client's port is not known"
		}
	}
	end := int(x.Offset + x.Len)
	if end > len(header) {
		m.set(x.DestRegister, make([]byte, x.Len), "this tool does not know the packet's link layer or content")
		return
	}
	m.set(x.DestRegister, header[x.Offset:end], doubt)
}

func (m *machine) bitwise(x *expr.Bitwise) {
	value, doubt := m.get(x.SourceRegister, int(x.Len))
	out := bytes.Clone(value)
	if len(x.Mask) != len(out) || len(x.Xor) != len(out) {
		doubt = "this tool does not evaluate shifts"
	} else {
		for i := range out {
			out[i] = out[i]&x.Mask[i] ^ x.Xor[i]
		}
	}
	m.set(x.DestRegister, out, doubt)
}

func (m *machine) byteorder(x *expr.Byteorder) {
	value, doubt := m.get(x.SourceRegister, int(x.Len))
	out := bytes.Clone(value)
	for at := 0; at+int(x.Size) <= len(out); at += int(x.Size) {
		word := out[at : at+int(x.Size)]
		for i, j := 0, len(word)-1; i < j; i, j = i+1, j-1 {
			word[i], word[j] = word[j], word[i]
		}
	}
	m.set(x.DestRegister, out, doubt)
}

func (m *machine) lookup(x *expr.Lookup) (outcome, effect) {
	s := m.rule.sets[x.SetName]
	if s == nil {
		return m.test(true, "set "+x.SetName+" is not there"), effect{}
	}
	if err := s.load(); err != nil {
		return m.test(true, "set "+x.SetName+" could not be read"), effect{}
	}
	if len(s.elements) == 0 {
		return m.test(x.Invert, ""), effect{}
	}
	key, doubt := m.get(x.SourceRegister, len(s.elements[0].key))
	e, found := s.find(key)
	if doubt != "" && s.isMap {
		// A random choice among a Service's endpoints: any of them will do.
		e, found, doubt = s.elements[0], true, ""
	}
	if !s.isMap || !x.IsDestRegSet {
		return m.test(found != x.Invert, doubt), effect{}
	}
	if !found {
		return m.test(false, doubt), effect{}
	}
	m.packets = e.packets
	if e.verdict != nil {
		if e.verdict.action == actionNext {
			return outcomeBreak, effect{}
		}
		return outcomeDone, *e.verdict
	}
	m.set(x.DestRegister, e.value, "")
	return outcomeGo, effect{}
}

func (m *machine) nat(x *expr.NAT) effect {
	e := effect{action: actionSNAT}
	if x.Type == expr.NATTypeDestNAT {
		e.action = actionDNAT
	}
	var addr netip.Addr
	if x.RegAddrMin != 0 {
		size := 4
		if m.p.family() == hostport.IPv6 {
			size = 16
		}
		b, _ := m.get(x.RegAddrMin, size)
		addr, _ = netip.AddrFromSlice(b)
	}
	var port uint16
	if x.RegProtoMin != 0 {
		port = m.port(x.RegProtoMin)
	}
	if !addr.IsValid() {
		addr = netip.IPv4Unspecified()
	}
	e.to = netip.AddrPortFrom(addr, port)
	return e
}

func (m *machine) port(reg uint32) uint16 {
	if reg == 0 {
		return 0
	}
	b, _ := m.get(reg, 2)
	return binary.BigEndian.Uint16(b)
}
