package nftables

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// reg1 is the kernel's first register of 16 bytes. Rules use the registers that nft would
// use, so that a rule that was listed and loaded again is still the same.
const reg1 = 1

// reg32 returns the n-th register of four bytes. The kernel reports the first
// quarter of a register of 16 bytes under that register's number.
func reg32(n uint32) uint32 {
	if n%4 == 0 {
		return 1 + n/4
	}
	return unix.NFT_REG32_00 + n
}

// words returns the number of four-byte registers that an address takes.
func words(f hostport.Family) uint32 { return uint32(addrBits(f)) / 32 }

// value is a field of a packet and the data that it is compared with.
type value struct {
	load []expr.Any // into the first register
	data []byte
}

func (v value) match(op expr.CmpOp) []expr.Any {
	return append(slices.Clip(v.load), &expr.Cmp{Op: op, Register: reg1, Data: v.data})
}

func loadMeta(key expr.MetaKey) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: reg1}}
}

func isFamily(f hostport.Family) []expr.Any {
	return value{loadMeta(expr.MetaKeyNFPROTO), []byte{nfnetlink.Family(f)}}.match(expr.CmpOpEq)
}

func loadAddr(f hostport.Family, source bool, register uint32) *expr.Payload {
	p := &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
	if f == hostport.IPv6 {
		p.Offset, p.Len = 24, 16
	}
	if source {
		p.Offset -= p.Len
	}
	return p
}

// mask masks the contents of the first register.
func mask(bits []byte) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: uint32(len(bits)), Mask: bits, Xor: make([]byte, len(bits))}
}

// inNet compares an address with a prefix. Where the prefix ends on a byte,
// only those bytes are loaded, as nft does it.
func inNet(p netip.Prefix, source bool) value {
	f := hostport.FamilyOf(p.Addr())
	network, load := p.Masked().Addr().AsSlice(), loadAddr(f, source, reg1)
	if p.Bits()%8 == 0 {
		load.Len = uint32(p.Bits()) / 8
		return value{append(isFamily(f), load), network[:load.Len]}
	}
	return value{append(isFamily(f), load, mask(net.CIDRMask(p.Bits(), addrBits(f)))), network}
}

// fromInterface compares the name of the interface on which a packet arrives, as
// the kernel does: with the zeros after it, or without them if it ends in "*".
func fromInterface(name string) value {
	data := make([]byte, unix.IFNAMSIZ)
	if base, wildcard := strings.CutSuffix(name, "*"); wildcard {
		data = []byte(base)
	}
	copy(data, name)
	return value{loadMeta(expr.MetaKeyIIFNAME), data}
}

// label returns the connection tracking label with one bit set. The kernel keeps
// labels in words of the machine's own byte order.
func label(bit int) []byte {
	b := make([]byte, 16)
	copy(b[bit/32*4:], binaryutil.NativeEndian.PutUint32(1<<(bit%32)))
	return b
}

// setLabel sets a bit of the connection's label; the kernel keeps the others.
func setLabel(bit int) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg1, Data: label(bit)},
		&expr.Ct{Key: expr.CtKeyLABELS, Register: reg1, SourceRegister: true},
	}
}

// hasBits matches connections that have any of these bits set.
func hasBits(key expr.CtKey, bits []byte) []expr.Any {
	return value{[]expr.Any{&expr.Ct{Key: key, Register: reg1}, mask(bits)}, make([]byte, len(bits))}.match(expr.CmpOpNeq)
}

// isTranslated matches connections whose destination was rewritten, by whichever program.
func isTranslated() []expr.Any {
	const ipsDstNAT = 1 << 5 // IPS_DST_NAT of nf_conntrack_common.h
	return hasBits(expr.CtKeySTATUS, binaryutil.NativeEndian.PutUint32(ipsDstNAT))
}

// isLocal matches packets to an address of the node, by the main routing tables.
// With input, it matches those to an address of the interface on which they
// arrive: the addresses of an interface in a VRF are only in the VRF's table.
func isLocal(input bool) []expr.Any {
	fib := &expr.Fib{Register: reg1, FlagDADDR: true, FlagIIF: input, ResultADDRTYPE: true}
	return value{[]expr.Any{fib}, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)}.match(expr.CmpOpEq)
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}
