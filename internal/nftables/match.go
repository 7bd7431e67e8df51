package nftables

import (
	"net"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// The kernel's registers, as nft numbers them: 1 is the first, of 16 bytes;
// reg32 names its four-byte quarters and those of the ones after it. Rules use
// the registers that nft would, so that a listing that was loaded again is
// still the same rule.
const reg1 = 1

// reg32 is the n-th register of four bytes. The kernel reports one that starts
// a register of 16 bytes under that register's number.
func reg32(n uint32) uint32 {
	if n%4 == 0 {
		return 1 + n/4
	}
	return unix.NFT_REG32_00 + n
}

// words is the number of four-byte registers that an address takes.
func words(f hostport.Family) uint32 { return uint32(addrBits(f)) / 32 }

// isFamily matches the packets of one family.
func isFamily(f hostport.Family) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1},
		equal([]byte{nfnetlink.Family(f)}),
	}
}

func equal(data []byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: data}
}

func unequal(data []byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: data}
}

// loadAddr loads the first n bytes of a packet's source or destination.
func loadAddr(f hostport.Family, source bool, n, register uint32) *expr.Payload {
	offsets := map[hostport.Family][2]uint32{hostport.IPv4: {16, 12}, hostport.IPv6: {24, 8}}
	offset := offsets[f][0]
	if source {
		offset = offsets[f][1]
	}
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n}
}

func loadSource(f hostport.Family, register uint32) *expr.Payload {
	return loadAddr(f, true, words(f)*4, register)
}

func loadDestination(f hostport.Family, register uint32) *expr.Payload {
	return loadAddr(f, false, words(f)*4, register)
}

// loadPort loads protocol and destination port.
func loadPort(n uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg32(n)},
		&expr.Payload{DestRegister: reg32(n + 1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// mask keeps some bits of what the first register holds.
func mask(bits []byte) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: uint32(len(bits)), Mask: bits, Xor: make([]byte, len(bits))}
}

// inNet compares an address with a prefix. Where the prefix ends on a byte,
// only those bytes are loaded, as nft does it.
func inNet(p netip.Prefix, source bool, compare func([]byte) *expr.Cmp) []expr.Any {
	f := hostport.FamilyOf(p.Addr())
	network := p.Masked().Addr().AsSlice()
	if p.Bits()%8 == 0 {
		n := p.Bits() / 8
		return []expr.Any{loadAddr(f, source, uint32(n), reg1), compare(network[:n])}
	}
	return []expr.Any{loadAddr(f, source, words(f)*4, reg1), mask(net.CIDRMask(p.Bits(), addrBits(f))), compare(network)}
}

// ifname is an interface name as the kernel compares it.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// label is the connection tracking label with one bit set. The kernel keeps
// labels in words of the machine's own byte order.
func label(bit int) []byte {
	b := make([]byte, 16)
	word := binaryutil.NativeEndian.PutUint32(1 << (bit % 32))
	copy(b[bit/32*4:], word)
	return b
}

// setLabel adds a bit to the connection's label; the kernel leaves the others
// as they are.
func setLabel(bit int) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg1, Data: label(bit)},
		&expr.Ct{Key: expr.CtKeyLABELS, Register: reg1, SourceRegister: true},
	}
}

func hasLabel(bit int) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyLABELS, Register: reg1},
		mask(label(bit)),
		unequal(make([]byte, 16)),
	}
}

// isTranslated matches connections whose destination was rewritten, by anyone.
func isTranslated() []expr.Any {
	const ipsDstNAT = 1 << 5 // IPS_DST_NAT of nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg1},
		mask(binaryutil.NativeEndian.PutUint32(ipsDstNAT)),
		unequal(make([]byte, 4)),
	}
}

// isLocal matches packets to an address of the node, by the main tables of routes.
// With input, it matches those to an address of the interface that they come by:
// where that is in a VRF, its addresses are in the VRF's table alone.
func isLocal(input bool) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, FlagDADDR: true, FlagIIF: input, ResultADDRTYPE: true},
		equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
	}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}
