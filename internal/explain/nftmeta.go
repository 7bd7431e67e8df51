package explain

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func native32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// ifname is an interface name as the kernel compares it.
func ifname(s string) []byte {
	b := make([]byte, 16)
	copy(b, s)
	return b
}

func (m *machine) meta(x *expr.Meta) outcome {
	p := m.p
	if x.SourceRegister {
		if x.Key == expr.MetaKeyMARK && m.doubt == "" {
			value, _ := m.get(x.Register, 4)
			p.Mark = binary.NativeEndian.Uint32(value)
		}
		return outcomeGo
	}
	switch x.Key {
	case expr.MetaKeyMARK:
		return m.load(x.Register, native32(p.Mark))
	case expr.MetaKeyIIFNAME:
		return m.load(x.Register, ifname(p.In))
	case expr.MetaKeyOIFNAME:
		return m.load(x.Register, ifname(p.Out))
	case expr.MetaKeyIIF, expr.MetaKeyOIF:
		name := p.In
		if x.Key == expr.MetaKeyOIF {
			name = p.Out
		}
		l := p.node.link(name)
		if l == nil {
			return outcomeBreak
		}
		return m.load(x.Register, native32(uint32(l.Index)))
	case expr.MetaKeyL4PROTO:
		return m.load(x.Register, []byte{p.Protocol.Number()})
	case expr.MetaKeyNFPROTO:
		return m.load(x.Register, []byte{nfnetlink.Family(p.family())})
	case expr.MetaKeyPROTOCOL:
		if p.family() == hostport.IPv4 {
			return m.load(x.Register, []byte{0x08, 0x00})
		}
		return m.load(x.Register, []byte{0x86, 0xdd})
	case expr.MetaKeyPKTTYPE:
		return m.load(x.Register, []byte{0}) // to this host
	case expr.MetaKeyPRIORITY, expr.MetaKeyRTCLASSID:
		return m.load(x.Register, native32(0))
	case expr.MetaKeyIIFTYPE, expr.MetaKeyOIFTYPE:
		name := p.In
		if x.Key == expr.MetaKeyOIFTYPE {
			name = p.Out
		}
		kind := uint16(unix.ARPHRD_ETHER)
		if name == "lo" {
			kind = unix.ARPHRD_LOOPBACK
		}
		return m.load(x.Register, binary.NativeEndian.AppendUint16(nil, kind))
	default:
		return m.hide(x.Register, 4, "this tool does not know all metadata of the packet")
	}
}

// Bits of ct state and ct status, from linux/netfilter/nf_conntrack_common.h.
const (
	ctInvalid     = 1
	ctEstablished = 2
	ctRelated     = 4
	ctNew         = 8
	ctUntracked   = 64

	statusSeenReply = 1 << 1
	statusAssured   = 1 << 2
	statusConfirmed = 1 << 3
	statusSNAT      = 1 << 4
	statusDNAT      = 1 << 5
)

func (m *machine) ct(x *expr.Ct) outcome {
	p := m.p
	if x.SourceRegister {
		m.setCt(x)
		return outcomeGo
	}
	if x.Key == expr.CtKeySTATE {
		return m.load(x.Register, native32(map[State]uint32{
			StateNone: ctInvalid, StateNew: ctNew, StateEstablished: ctEstablished, StateUntracked: ctUntracked,
		}[p.State]))
	}
	if p.State == StateNone || p.State == StateUntracked {
		return outcomeBreak // as the kernel does without an entry
	}
	reply := p.State == StateEstablished
	switch x.Key {
	case expr.CtKeySTATUS:
		var bits uint32
		if reply {
			bits = statusConfirmed | statusSeenReply
		}
		if p.DNAT {
			bits |= statusDNAT
		}
		if p.SNAT {
			bits |= statusSNAT
		}
		return m.load(x.Register, native32(bits))
	case expr.CtKeyDIRECTION:
		if reply {
			return m.load(x.Register, []byte{1})
		}
		return m.load(x.Register, []byte{0})
	case expr.CtKeyMARK:
		return m.load(x.Register, native32(p.ctMark))
	case expr.CtKeyLABELS:
		return m.load(x.Register, p.labels[:])
	case expr.CtKeyPROTOCOL:
		return m.load(x.Register, []byte{p.Protocol.Number()})
	case expr.CtKeyL3PROTOCOL:
		return m.load(x.Register, []byte{nfnetlink.Family(p.family())})
	case expr.CtKeyDST, ctKeyDstIP, ctKeyDstIP6, expr.CtKeyPROTODST, expr.CtKeySRC, ctKeySrcIP, ctKeySrcIP6, expr.CtKeyPROTOSRC:
		return m.tuple(x)
	default:
		return m.hide(x.Register, 4, "this tool does not know all that is tracked of the connection")
	}
}

// Keys of Linux 4.17 that the library does not define.
const (
	ctKeySrcIP  = expr.CtKey(19)
	ctKeyDstIP  = expr.CtKey(20)
	ctKeySrcIP6 = expr.CtKey(21)
	ctKeyDstIP6 = expr.CtKey(22)
)

// tuple loads an address or port of the connection's original direction.
func (m *machine) tuple(x *expr.Ct) outcome {
	if x.Direction != 0 {
		return m.hide(x.Register, 16, "this tool does not know the connection's reply direction")
	}
	of := m.p.OriginalDestination
	switch x.Key {
	case expr.CtKeySRC, ctKeySrcIP, ctKeySrcIP6, expr.CtKeyPROTOSRC:
		of = m.p.OriginalSource
	}
	if x.Key == expr.CtKeyPROTODST || x.Key == expr.CtKeyPROTOSRC {
		return m.load(x.Register, binary.BigEndian.AppendUint16(nil, of.Port()))
	}
	return m.load(x.Register, of.Addr().AsSlice())
}

func (m *machine) setCt(x *expr.Ct) {
	if m.doubt != "" {
		return
	}
	switch x.Key {
	case expr.CtKeyMARK:
		value, _ := m.get(x.Register, 4)
		m.p.ctMark = binary.NativeEndian.Uint32(value)
	case expr.CtKeyLABELS:
		// The kernel ORs the bits into the label.
		value, _ := m.get(x.Register, 16)
		for i, b := range value {
			m.p.labels[i] |= b
		}
	}
}

func (m *machine) fib(x *expr.Fib) outcome {
	addr := m.p.Destination.Addr()
	if x.FlagSADDR {
		addr = m.p.Source.Addr()
	}
	switch {
	case x.ResultADDRTYPE:
		kind := map[string]uint32{
			"UNICAST": unix.RTN_UNICAST, "LOCAL": unix.RTN_LOCAL, "BROADCAST": unix.RTN_BROADCAST, "MULTICAST": unix.RTN_MULTICAST,
		}[m.p.node.addrType(addr)]
		if l := m.p.node.holder(addr); x.FlagIIF && kind == unix.RTN_LOCAL && (l == nil || l.Name != m.p.In) {
			kind = unix.RTN_UNICAST
		}
		return m.load(x.Register, native32(kind))
	case x.ResultOIF, x.ResultOIFNAME:
		return m.fibOut(x, addr)
	default:
		return m.hide(x.Register, 4, "this tool does not evaluate this route lookup")
	}
}

// fibOut loads the interface of a route. With iif among the flags, the kernel
// returns it only if the packet arrived on it.
func (m *machine) fibOut(x *expr.Fib, addr netip.Addr) outcome {
	r, known := m.p.node.Routes[addr]
	if !known {
		return m.hide(x.Register, 16, "the route to "+addr.String()+" was not looked up")
	}
	out := r.Out
	if x.FlagIIF && out != m.p.In {
		out = ""
	}
	present := byte(0)
	if out != "" {
		present = 1
	}
	switch {
	case x.FlagPRESENT:
		return m.load(x.Register, []byte{present})
	case x.ResultOIFNAME:
		return m.load(x.Register, ifname(out))
	default:
		index := uint32(0)
		if l := m.p.node.link(out); l != nil {
			index = uint32(l.Index)
		}
		return m.load(x.Register, native32(index))
	}
}
