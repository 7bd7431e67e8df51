package conntrack

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// entry is what the kernel tells of a flow, as far as it is needed here.
type entry struct {
	protocol    uint8
	destination netip.Addr // of the original direction
	port        uint16     // destination port of the original direction
	// tuple, zone and id are attributes as the kernel sent them, header
	// included, that name the entry when it is to be deleted. They share the
	// memory of the message.
	tuple, zone, id []byte
}

// Attributes, of linux/netfilter/nfnetlink_conntrack.h and linux/netlink.h.
const (
	attrTupleOrig = 1  // nested, tuple...
	attrID        = 12 // 4 bytes
	attrZone      = 18 // 2 bytes
	attrFilter    = 25 // nested, filter..., since Linux 5.8

	tupleIP    = 1 // nested, ip...
	tupleProto = 2 // nested, proto...

	ipV4Dst = 2
	ipV6Dst = 4

	protoNum     = 1 // a byte
	protoDstPort = 3 // 2 bytes, big endian

	filterOrigFlags = 1 // 4 bytes, native endian: which of the tuple counts

	flagProtoNum     = 1 << 3 // bits of filterOrigFlags
	flagProtoDstPort = 1 << 5

	nfgenmsgLen = 4
	attrLen     = 4
	attrNested  = 1 << 15
	attrMask    = 1<<14 - 1
)

var errMalformed = errors.New("malformed conntrack entry")

// parseEntry reads a conntrack message's data: a struct nfgenmsg and
// attributes. An entry without ports (ICMP, GRE) has port 0.
func parseEntry(msg []byte) (entry, error) {
	if len(msg) < nfgenmsgLen {
		return entry{}, errMalformed
	}
	var e entry
	err := attributes(msg[nfgenmsgLen:], func(kind uint16, value, whole []byte) error {
		switch kind {
		case attrTupleOrig:
			e.tuple = whole
			return e.parseTuple(value)
		case attrZone:
			e.zone = whole
		case attrID:
			e.id = whole
		}
		return nil
	})
	if err != nil {
		return entry{}, err
	}
	if e.tuple == nil || !e.destination.IsValid() {
		return entry{}, errMalformed
	}
	return e, nil
}

func (e *entry) parseTuple(tuple []byte) error {
	return attributes(tuple, func(kind uint16, value, _ []byte) error {
		switch kind {
		case tupleIP:
			return attributes(value, e.parseIP)
		case tupleProto:
			return attributes(value, e.parseProto)
		}
		return nil
	})
}

func (e *entry) parseIP(kind uint16, value, _ []byte) error {
	if kind != ipV4Dst && kind != ipV6Dst {
		return nil
	}
	var ok bool
	e.destination, ok = netip.AddrFromSlice(value)
	if !ok || e.destination.Is4() != (kind == ipV4Dst) {
		return errMalformed
	}
	return nil
}

func (e *entry) parseProto(kind uint16, value, _ []byte) error {
	switch {
	case kind == protoNum && len(value) == 1:
		e.protocol = value[0]
	case kind == protoDstPort && len(value) == 2:
		e.port = binary.BigEndian.Uint16(value)
	case kind == protoNum || kind == protoDstPort:
		return errMalformed
	}
	return nil
}

// attributes calls f with each attribute's type, value, and the whole of it.
func attributes(b []byte, f func(kind uint16, value, whole []byte) error) error {
	for len(b) > 0 {
		if len(b) < attrLen {
			return errMalformed
		}
		size := int(binary.NativeEndian.Uint16(b))
		if size < attrLen || size > len(b) {
			return errMalformed
		}
		kind := binary.NativeEndian.Uint16(b[2:]) & attrMask
		if err := f(kind, b[attrLen:size], b[:size]); err != nil {
			return err
		}
		b = b[min(align(size), len(b)):]
	}
	return nil
}

// align rounds a length up to that of netlink's next message or attribute.
func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
