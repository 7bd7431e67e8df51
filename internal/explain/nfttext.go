package explain

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// printer prints a rule in nft's syntax, well enough for operators to recognise
// the rule: the output is not meant to be loaded.
type printer struct {
	rule   *nftRule
	labels map[uint32]label
	proto  string
	out    []string
}

// label describes the contents of a register.
type label struct {
	name string
	kind string // how to print its value
	mask string
}

func (r *nftRule) text() string {
	p := &printer{rule: r, labels: map[uint32]label{}}
	for _, e := range r.expressions() {
		p.print(e)
	}
	if r.comment != "" {
		p.add("comment %q", r.comment)
	}
	return strings.Join(p.out, " ")
}

func (p *printer) add(format string, args ...any) {
	p.out = append(p.out, fmt.Sprintf(format, args...))
}

func (p *printer) print(e nftExpr) {
	switch x := e.any.(type) {
	case *expr.Payload:
		p.labels[word(x.DestRegister)] = p.payloadLabel(x)
	case *expr.Meta:
		p.meta(x)
	case *expr.Ct:
		if x.SourceRegister {
			p.add("ct %s set %s", ctLabel(x.Key).name, p.of(x.Register).name)
			return
		}
		p.labels[word(x.Register)] = ctLabel(x.Key)
	case *expr.Fib:
		what := "daddr"
		if x.FlagSADDR {
			what = "saddr"
		}
		if x.FlagIIF {
			what += " . iif"
		}
		l := label{name: "fib " + what + " oif", kind: "hex"}
		if x.ResultADDRTYPE {
			l = label{name: "fib " + what + " type", kind: "addrtype"}
		}
		p.labels[word(x.Register)] = l
	case *expr.Bitwise:
		l := p.of(x.SourceRegister)
		l.mask = " & 0x" + hex.EncodeToString(x.Mask)
		if l.kind == "v4" || l.kind == "v6" || l.kind == "ctstate" || l.kind == "ctstatus" {
			l.mask = "" // a prefix, or a set of flags
			if bits, ok := prefixBits(x.Mask); ok && l.kind[0] == 'v' {
				l.mask = "/" + strconv.Itoa(bits)
			}
		}
		p.labels[word(x.DestRegister)] = l
	case *expr.Byteorder:
		p.labels[word(x.DestRegister)] = p.of(x.SourceRegister)
	case *expr.Immediate:
		p.labels[word(x.Register)] = label{name: immediate(x.Data), kind: "hex"}
	case *expr.Cmp:
		p.compare(x)
	case *expr.Range:
		l := p.of(x.Register)
		p.add("%s %s%s-%s", l.name, not(x.Op), l.value(x.FromData), l.value(x.ToData))
	case *expr.Lookup:
		p.lookup(x)
	case *expr.Dynset:
		p.add("update @%s", x.SetName)
	default:
		p.statement(e)
	}
}

func (p *printer) statement(e nftExpr) {
	switch x := e.any.(type) {
	case *expr.Verdict:
		p.add("%s", effect{action: verdictAction(int32(x.Kind)), chain: x.Chain}.verdict())
	case *expr.NAT:
		kind := "snat"
		if x.Type == expr.NATTypeDestNAT {
			kind = "dnat"
		}
		to := ""
		if x.RegAddrMin != 0 {
			to = p.of(x.RegAddrMin).name
		}
		if x.RegProtoMin != 0 && !strings.Contains(to, "@") {
			to += ":" + p.of(x.RegProtoMin).name
		}
		p.add("%s to %s", kind, to)
	case *expr.Masq:
		p.add("masquerade")
	case *expr.Redir:
		p.add("redirect to :%s", p.of(x.RegisterProtoMin).name)
	case *expr.Reject:
		p.add("reject")
	case *expr.Limit:
		p.add("limit rate %d", x.Rate)
	case *expr.Numgen:
		p.labels[word(x.Register)] = label{name: fmt.Sprintf("numgen random mod %d", x.Modulus), kind: "hex"}
	case *expr.Hash:
		p.labels[word(x.DestRegister)] = label{name: "jhash", kind: "hex"}
	default:
		p.add("%s", e.name)
	}
}

// word returns the index of a register's first word.
func word(reg uint32) uint32 { return uint32(offset(reg) / 4) }

func (p *printer) of(reg uint32) label {
	if l, ok := p.labels[word(reg)]; ok {
		return l
	}
	return label{name: "?", kind: "hex"}
}

func (p *printer) payloadLabel(x *expr.Payload) label {
	switch at := [2]uint32{x.Offset, x.Len}; {
	case x.Base == expr.PayloadBaseTransportHeader && x.Len == 2 && x.Offset <= 2:
		proto := p.proto
		if proto == "" {
			proto = "th"
		}
		return label{name: proto + [...]string{" sport", "", " dport"}[x.Offset], kind: "port"}
	case x.Base != expr.PayloadBaseNetworkHeader:
	case x.Offset == 12 && x.Len <= 4:
		return label{name: "ip saddr", kind: "v4"}
	case x.Offset == 16 && x.Len <= 4:
		return label{name: "ip daddr", kind: "v4"}
	case at == [2]uint32{9, 1}:
		return label{name: "ip protocol", kind: "proto"}
	case at == [2]uint32{8, 16}:
		return label{name: "ip6 saddr", kind: "v6"}
	case at == [2]uint32{24, 16}:
		return label{name: "ip6 daddr", kind: "v6"}
	case at == [2]uint32{6, 1}:
		return label{name: "ip6 nexthdr", kind: "proto"}
	}
	return label{name: fmt.Sprintf("@%d,%d,%d", x.Base, x.Offset*8, x.Len*8), kind: "hex"}
}

func (p *printer) meta(x *expr.Meta) {
	names := map[expr.MetaKey]label{
		expr.MetaKeyMARK: {name: "meta mark", kind: "host"}, expr.MetaKeyIIFNAME: {name: "iifname", kind: "name"},
		expr.MetaKeyOIFNAME: {name: "oifname", kind: "name"}, expr.MetaKeyIIF: {name: "iif", kind: "host"},
		expr.MetaKeyOIF: {name: "oif", kind: "host"}, expr.MetaKeyL4PROTO: {name: "meta l4proto", kind: "proto"},
		expr.MetaKeyNFPROTO: {name: "meta nfproto", kind: "nfproto"}, expr.MetaKeyPROTOCOL: {name: "meta protocol", kind: "hex"},
		expr.MetaKeyPKTTYPE: {name: "meta pkttype", kind: "hex"}, expr.MetaKeyNFTRACE: {name: "meta nftrace", kind: "hex"},
	}
	l, ok := names[x.Key]
	if !ok {
		l = label{name: "meta " + strconv.Itoa(int(x.Key)), kind: "hex"}
	}
	if x.SourceRegister {
		p.add("%s set %s%s", l.name, p.of(x.Register).name, p.of(x.Register).mask)
		return
	}
	p.labels[word(x.Register)] = l
}

func ctLabel(key expr.CtKey) label {
	switch key {
	case expr.CtKeySTATE:
		return label{name: "ct state", kind: "ctstate"}
	case expr.CtKeySTATUS:
		return label{name: "ct status", kind: "ctstatus"}
	case expr.CtKeyMARK:
		return label{name: "ct mark", kind: "host"}
	case expr.CtKeyLABELS:
		return label{name: "label", kind: "hex"}
	case expr.CtKeyDIRECTION:
		return label{name: "ct direction", kind: "hex"}
	default:
		return label{name: "ct " + strconv.Itoa(int(key)), kind: "hex"}
	}
}

func not(op expr.CmpOp) string {
	return map[expr.CmpOp]string{
		expr.CmpOpNeq: "!= ", expr.CmpOpLt: "< ", expr.CmpOpLte: "<= ", expr.CmpOpGt: "> ", expr.CmpOpGte: ">= ",
	}[op]
}

func (p *printer) compare(x *expr.Cmp) {
	l := p.of(x.Register)
	value := l.value(x.Data)
	switch {
	case l.kind == "ctstate" || l.kind == "ctstatus":
		// A test of flags: "& bits != 0".
		if flags := p.lastFlags(x); flags != "" {
			value = flags
		}
		p.add("%s %s", l.name, value)
		return
	case l.name == "meta l4proto" && x.Op == expr.CmpOpEq:
		p.proto = value
	case strings.HasPrefix(l.mask, "/"):
		p.add("%s %s%s%s", l.name, not(x.Op), value, l.mask)
		return
	}
	p.add("%s%s %s%s", l.name, l.mask, not(x.Op), value)
}

// lastFlags returns the mask of the flags that a comparison with zero tests.
func (p *printer) lastFlags(x *expr.Cmp) string {
	for _, e := range p.rule.exprs {
		if b, ok := e.any.(*expr.Bitwise); ok && word(b.DestRegister) == word(x.Register) {
			return p.of(x.Register).value(b.Mask)
		}
	}
	return ""
}

func (p *printer) lookup(x *expr.Lookup) {
	l := p.key(x)
	to := "@" + x.SetName
	if s := p.rule.sets[x.SetName]; s != nil && s.anonymous {
		to = "{ ... }"
		const most = 4
		if s.load() == nil && len(s.elements) <= most && !s.isMap && !s.interval {
			var values []string
			for _, e := range s.elements {
				values = append(values, l.value(e.key))
			}
			to = "{ " + strings.Join(values, ", ") + " }"
		}
	}
	invert := ""
	if x.Invert {
		invert = "!= "
	}
	switch {
	case x.IsDestRegSet && x.DestRegister == unix.NFT_REG_VERDICT:
		p.add("%s vmap %s", l.name, to)
	case x.IsDestRegSet:
		p.labels[word(x.DestRegister)] = label{name: l.name + " map " + to, kind: "hex"}
	default:
		p.add("%s%s %s%s", l.name, l.mask, invert, to)
	}
}

// key returns a label for all fields of a concatenation.
func (p *printer) key(x *expr.Lookup) label {
	l := p.of(x.SourceRegister)
	s := p.rule.sets[x.SetName]
	if s == nil || s.load() != nil || len(s.elements) == 0 {
		return l
	}
	names := []string{l.name}
	first := word(x.SourceRegister)
	for w := first + 1; w < first+uint32(len(s.elements[0].key)+3)/4; w++ {
		if more, ok := p.labels[w]; ok && (l.kind != "v6" || w >= first+4) {
			names = append(names, more.name)
		}
	}
	if len(names) > 1 {
		return label{name: strings.Join(names, " . "), kind: "hex"}
	}
	return l
}

// value prints a register's value.
func (l label) value(b []byte) string {
	switch {
	case l.kind == "v4" && len(b) < 4 || l.kind == "v6" && len(b) < 16:
		// A prefix that ends at a byte is compared as that many bytes.
		size := 4
		if l.kind == "v6" {
			size = 16
		}
		addr, _ := netip.AddrFromSlice(append(append([]byte{}, b...), make([]byte, size-len(b))...))
		return netip.PrefixFrom(addr, 8*len(b)).String()
	case l.kind == "v4" || l.kind == "v6":
		addr, _ := netip.AddrFromSlice(b)
		return addr.String()
	case l.kind == "port" && len(b) == 2:
		return strconv.Itoa(int(binary.BigEndian.Uint16(b)))
	case l.kind == "name":
		name := strings.TrimRight(string(b), "\x00")
		if len(b) < 16 {
			name += "*"
		}
		return strconv.Quote(name)
	case l.kind == "proto" && len(b) == 1:
		for _, p := range []hostport.Protocol{hostport.TCP, hostport.UDP, hostport.SCTP} {
			if p.Number() == b[0] {
				return string(p)
			}
		}
		return strconv.Itoa(int(b[0]))
	case l.kind == "nfproto" && len(b) == 1:
		return map[byte]string{unix.NFPROTO_IPV4: "ipv4", unix.NFPROTO_IPV6: "ipv6"}[b[0]]
	case l.kind == "host" && len(b) == 4:
		return fmt.Sprintf("%#x", binary.NativeEndian.Uint32(b))
	case l.kind == "ctstate" && len(b) == 4:
		return flags(b, map[uint32]string{
			ctInvalid: "invalid", ctEstablished: "established", ctRelated: "related", ctNew: "new", ctUntracked: "untracked",
		})
	case l.kind == "ctstatus" && len(b) == 4:
		return flags(b, map[uint32]string{
			statusSeenReply: "seen-reply", statusAssured: "assured", statusConfirmed: "confirmed", statusSNAT: "snat", statusDNAT: "dnat",
		})
	case l.kind == "addrtype" && len(b) == 4:
		kinds := map[uint32]string{unix.RTN_UNICAST: "unicast", unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_MULTICAST: "multicast"}
		return kinds[binary.NativeEndian.Uint32(b)]
	default:
		return "0x" + hex.EncodeToString(b)
	}
}

func flags(b []byte, names map[uint32]string) string {
	n := binary.NativeEndian.Uint32(b)
	var out []string
	for bit := uint32(1); bit != 0; bit <<= 1 {
		if name, ok := names[bit]; ok && n&bit != 0 {
			out = append(out, name)
		}
	}
	return strings.Join(out, ",")
}

// immediate prints the value of a statement: an address, a port or a number.
func immediate(b []byte) string {
	switch len(b) {
	case 2:
		return strconv.Itoa(int(binary.BigEndian.Uint16(b)))
	case 4, 16:
		addr, _ := netip.AddrFromSlice(b)
		return addr.String()
	default:
		return "0x" + hex.EncodeToString(b)
	}
}

func prefixBits(mask []byte) (int, bool) {
	bits, done := 0, false
	for _, b := range mask {
		for i := 7; i >= 0; i-- {
			switch {
			case b>>i&1 == 0:
				done = true
			case done:
				return 0, false
			default:
				bits++
			}
		}
	}
	return bits, true
}
