package explain

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
)

// nftRule is a rule of nf_tables. Its expressions are decoded on first use.
type nftRule struct {
	family  byte
	raw     nfnetlink.Attributes
	sets    map[string]*nftSet
	comment string

	decoded bool
	exprs   []nftExpr
}

// nftExpr is an expression; any is nil for an unknown one.
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
		name, known := nfnetlink.Expression(r.family, e)
		r.exprs = append(r.exprs, nftExpr{name, known})
	}
	return r.exprs
}

// registers holds the registers of the kernel's virtual machine: 16 words of 4
// bytes. A word with an unknown value has a reason.
type registers struct {
	data   [64]byte
	doubts [16]string
}

// offset returns where a register begins: 1 to 4 have 16 bytes, 8 to 23 have 4.
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
	// doubt says why it is uncertain whether the rule matched so far.
	doubt string
	// packets is the counter of the last element found.
	packets *uint64
	// effect is the rule's effect, once it has ended.
	effect effect
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
	e := m.run()
	if m.doubt != "" {
		*p = before
	}
	return e
}

func (m *machine) run() effect {
	for _, e := range m.rule.expressions() {
		switch m.step(e) {
		case outcomeBreak:
			return effect{}
		case outcomeDone:
			m.effect.doubt, m.effect.packets = m.doubt, m.packets
			return m.effect
		}
	}
	return effect{}
}

// done ends the rule with an effect. Without one, evaluation continues with the
// next rule.
func (m *machine) done(e effect) outcome {
	if e.action == actionNext {
		return outcomeBreak
	}
	m.effect = e
	return outcomeDone
}

// load puts a value into a register.
func (m *machine) load(reg uint32, value []byte) outcome {
	m.set(reg, value, "")
	return outcomeGo
}

// hide notes why the value of a register is unknown.
func (m *machine) hide(reg uint32, size int, why string) outcome {
	m.set(reg, make([]byte, size), why)
	return outcomeGo
}

// step runs one expression. An unknown expression leaves the match in doubt.
func (m *machine) step(e nftExpr) outcome {
	switch x := e.any.(type) {
	case *expr.Payload:
		return m.payload(x)
	case *expr.Meta:
		return m.meta(x)
	case *expr.Ct:
		return m.ct(x)
	case *expr.Fib:
		return m.fib(x)
	case *expr.Cmp:
		value, doubt := m.get(x.Register, len(x.Data))
		return m.test(compare(x.Op, bytes.Compare(value, x.Data)), doubt)
	case *expr.Range:
		value, doubt := m.get(x.Register, len(x.FromData))
		in := bytes.Compare(x.FromData, value) <= 0 && bytes.Compare(value, x.ToData) <= 0
		return m.test(in == (x.Op == expr.CmpOpEq), doubt)
	case *expr.Bitwise:
		return m.bitwise(x)
	case *expr.Byteorder:
		return m.byteorder(x)
	case *expr.Immediate:
		return m.load(x.Register, x.Data)
	case *expr.Lookup:
		return m.lookup(x)
	case *expr.Verdict:
		return m.done(effect{action: verdictAction(int32(x.Kind)), chain: x.Chain})
	case *expr.NAT:
		return m.done(m.nat(x))
	case *expr.Masq:
		return m.done(effect{action: actionMasquerade})
	case *expr.Redir:
		return m.done(effect{action: actionRedirect, to: netip.AddrPortFrom(netip.IPv4Unspecified(), m.port(x.RegisterProtoMin))})
	case *expr.TProxy:
		return m.done(effect{action: actionRedirect, to: netip.AddrPortFrom(netip.IPv4Unspecified(), m.port(x.RegPort))})
	case *expr.Reject:
		return m.done(effect{action: actionReject})
	case *expr.Limit:
		return m.test(true, "a rate limit")
	case *expr.Numgen:
		return m.hide(x.Register, 4, "chosen at random")
	case *expr.Hash:
		return m.hide(x.DestRegister, 4, "chosen by a hash")
	case *expr.Dynset:
		return outcomeGo
	}
	return m.other(e.name)
}

// other runs expressions without relevant operands, and unknown ones.
func (m *machine) other(name string) outcome {
	switch name {
	case "counter", "log", "objref", "last", "dup", "flow_offload", "secmark", "tracing":
		return outcomeGo
	case "notrack":
		if m.doubt == "" && m.p.State == StateNone {
			m.p.State = StateUntracked
		}
		return outcomeGo
	case "queue":
		return m.done(effect{action: actionQueue})
	case "synproxy", "fwd":
		return m.done(effect{action: actionReject})
	default:
		return m.test(true, "this tool does not evaluate the expression "+name)
	}
}

// test continues if the rule still matches.
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
func (m *machine) payload(x *expr.Payload) outcome {
	if x.OperationType == expr.PayloadWrite {
		return outcomeGo // changing a header decides nothing here
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
		return m.hide(x.DestRegister, int(x.Len), "this tool does not know the packet's link layer or content")
	}
	m.set(x.DestRegister, header[x.Offset:end], doubt)
	return outcomeGo
}

func (m *machine) bitwise(x *expr.Bitwise) outcome {
	value, doubt := m.get(x.SourceRegister, int(x.Len))
	out := bytes.Clone(value)
	if len(x.Mask) != len(out) || len(x.Xor) != len(out) {
		return m.hide(x.DestRegister, len(out), "this tool does not evaluate shifts")
	}
	for i := range out {
		out[i] = out[i]&x.Mask[i] ^ x.Xor[i]
	}
	m.set(x.DestRegister, out, doubt)
	return outcomeGo
}

func (m *machine) byteorder(x *expr.Byteorder) outcome {
	value, doubt := m.get(x.SourceRegister, int(x.Len))
	out := bytes.Clone(value)
	for word := range slices.Chunk(out, int(x.Size)) {
		slices.Reverse(word)
	}
	m.set(x.DestRegister, out, doubt)
	return outcomeGo
}

func (m *machine) lookup(x *expr.Lookup) outcome {
	s := m.rule.sets[x.SetName]
	if s == nil {
		return m.test(true, "set "+x.SetName+" is not there")
	}
	if err := s.load(); err != nil {
		return m.test(true, "set "+x.SetName+" could not be read")
	}
	if len(s.elements) == 0 {
		return m.test(x.Invert, "")
	}
	key, doubt := m.get(x.SourceRegister, len(s.elements[0].key))
	e, found := s.find(key)
	if doubt != "" && s.isMap {
		// A random choice among a Service's endpoints: take any of them.
		e, found, doubt = s.elements[0], true, ""
	}
	switch {
	case !s.isMap || !x.IsDestRegSet:
		return m.test(found != x.Invert, doubt)
	case !found:
		return outcomeBreak
	}
	m.packets = e.packets
	if e.verdict != nil {
		return m.done(*e.verdict)
	}
	return m.load(x.DestRegister, e.value)
}

func (m *machine) nat(x *expr.NAT) effect {
	e, addr := effect{action: actionSNAT}, netip.IPv4Unspecified()
	if x.Type == expr.NATTypeDestNAT {
		e.action = actionDNAT
	}
	if x.RegAddrMin != 0 {
		b, _ := m.get(x.RegAddrMin, m.p.Destination.Addr().BitLen()/8)
		addr, _ = netip.AddrFromSlice(b)
	}
	e.to = netip.AddrPortFrom(addr, m.port(x.RegProtoMin))
	return e
}

// port returns the port in a register, 0 for none.
func (m *machine) port(reg uint32) uint16 {
	if reg == 0 {
		return 0
	}
	b, _ := m.get(reg, 2)
	return binary.BigEndian.Uint16(b)
}
