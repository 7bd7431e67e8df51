package conntrack

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Message types of subsystem NFNL_SUBSYS_CTNETLINK.
const (
	messageNew    = 0x100 // also an entry in the answer to messageGet
	messageGet    = 0x101
	messageDelete = 0x102
)

// filterKind is by what the kernel is asked to filter a dump.
type filterKind uint8

// From the finest to none at all.
const (
	byPort     filterKind = iota // UDP to one destination port
	byProtocol                   // UDP
	byFamily                     // IPv4 or IPv6, which every kernel can
)

// appendDump appends a request for the entries of a family, filtered.
func appendDump(b []byte, f hostport.Family, by filterKind, port uint16) []byte {
	return appendMessage(b, messageGet, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, f, func(b []byte) []byte {
		if by == byFamily {
			return b
		}
		flags := uint32(flagProtoNum)
		proto := appendAttr(nil, protoNum, hostport.UDP.Number())
		if by == byPort {
			flags |= flagProtoDstPort
			proto = appendAttr(proto, protoDstPort, binary.BigEndian.AppendUint16(nil, port)...)
		}
		b = appendAttr(b, attrTupleOrig|attrNested, appendAttr(nil, tupleProto|attrNested, proto...)...)
		return appendAttr(b, attrFilter|attrNested,
			appendAttr(nil, filterOrigFlags, binary.NativeEndian.AppendUint32(nil, flags)...)...)
	})
}

// appendDelete appends a request to delete one entry, and to acknowledge it.
// The ID, made of the entry's address in memory, keeps a flow that was decided
// anew meanwhile, unless its entry came to lie in the same place.
func appendDelete(b []byte, f hostport.Family, e entry) []byte {
	return appendMessage(b, messageDelete, unix.NLM_F_REQUEST|unix.NLM_F_ACK, f, func(b []byte) []byte {
		for _, attr := range [][]byte{e.tuple, e.zone, e.id} {
			b = appendPadded(b, attr)
		}
		return b
	})
}

// appendMessage appends a netlink message with a struct nfgenmsg. Its sequence
// number is left to conn.send.
func appendMessage(b []byte, kind, flags uint16, f hostport.Family, attrs func([]byte) []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, unix.SizeofNlMsghdr)...)
	family := byte(unix.AF_INET)
	if f == hostport.IPv6 {
		family = unix.AF_INET6
	}
	b = attrs(append(b, family, unix.NFNETLINK_V0, 0, 0))
	header := b[start:]
	binary.NativeEndian.PutUint32(header, uint32(len(header)))
	binary.NativeEndian.PutUint16(header[4:], kind)
	binary.NativeEndian.PutUint16(header[6:], flags)
	return b
}

func appendAttr(b []byte, kind uint16, value ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrLen+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return appendPadded(b, value)
}

func appendPadded(b, value []byte) []byte {
	b = append(b, value...)
	return append(b, make([]byte, align(len(value))-len(value))...)
}
