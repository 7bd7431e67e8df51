package conntrack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// entry is what the kernel tells of a flow, as far as it is needed here.
type entry struct {
	protocol    uint8
	destination netip.Addr // of the original direction
	port        uint16     // destination port of the original direction
	// tuple, zone and id are the values of the attributes that name the entry
	// when it is to be deleted. They share the memory of the message.
	tuple, zone, id []byte
}

var errMalformed = errors.New("malformed conntrack entry")

// parseEntry reads a conntrack message's data: a struct nfgenmsg and
// attributes. An entry without ports (ICMP, GRE) has port 0.
func parseEntry(msg []byte) (entry, error) {
	if len(msg) < nl.SizeofNfgenmsg {
		return entry{}, errMalformed
	}
	var e entry
	err := attributes(msg[nl.SizeofNfgenmsg:], func(kind uint16, value []byte) error {
		switch kind {
		case nl.CTA_TUPLE_ORIG:
			e.tuple = value
			return attributes(value, e.parseTuple)
		case nl.CTA_ZONE:
			e.zone = value
		case nl.CTA_ID:
			e.id = value
		}
		return nil
	})
	if err == nil && !e.destination.IsValid() {
		err = errMalformed
	}
	return e, err
}

func (e *entry) parseTuple(kind uint16, value []byte) error {
	switch kind {
	case nl.CTA_TUPLE_IP:
		return attributes(value, e.parseIP)
	case nl.CTA_TUPLE_PROTO:
		return attributes(value, e.parseProto)
	}
	return nil
}

func (e *entry) parseIP(kind uint16, value []byte) error {
	if kind != nl.CTA_IP_V4_DST && kind != nl.CTA_IP_V6_DST {
		return nil
	}
	var ok bool
	e.destination, ok = netip.AddrFromSlice(value)
	if !ok || e.destination.Is4() != (kind == nl.CTA_IP_V4_DST) {
		return errMalformed
	}
	return nil
}

func (e *entry) parseProto(kind uint16, value []byte) error {
	switch {
	case kind == nl.CTA_PROTO_NUM && len(value) == 1:
		e.protocol = value[0]
	case kind == nl.CTA_PROTO_DST_PORT && len(value) == 2:
		e.port = binary.BigEndian.Uint16(value)
	case kind == nl.CTA_PROTO_NUM || kind == nl.CTA_PROTO_DST_PORT:
		return errMalformed
	}
	return nil
}

// clone returns the entry in memory of its own: one entry that is kept must not
// keep a whole datagram of others.
func (e entry) clone() entry {
	e.tuple, e.zone, e.id = bytes.Clone(e.tuple), bytes.Clone(e.zone), bytes.Clone(e.id)
	return e
}

// attributes calls f with each attribute's type and value. It allocates
// nothing, other than the library's: a dump may have half a million entries.
func attributes(b []byte, f func(kind uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlAttr {
			return errMalformed
		}
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return errMalformed
		}
		if err := f(binary.NativeEndian.Uint16(b[2:])&nl.NLA_TYPE_MASK, b[unix.SizeofNlAttr:size]); err != nil {
			return err
		}
		b = b[min((size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(b)):]
	}
	return nil
}
