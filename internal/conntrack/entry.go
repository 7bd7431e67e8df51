package conntrack

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink/nl"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
)

// entry is what the kernel tells of a flow, as far as it is needed here.
type entry struct {
	protocol    uint8
	destination netip.AddrPort // of the original direction
	// tuple, zone and id are the values of the attributes that name the entry
	// when it is to be deleted. They share the memory of the message.
	tuple, zone, id []byte
}

// parseEntry reads a conntrack message's data: a struct nfgenmsg and
// attributes. An entry without ports (ICMP, GRE) has port 0. It allocates nothing: a
// dump may have half a million entries.
func parseEntry(msg []byte) (e entry) {
	as := nfnetlink.Attributes(msg[min(nl.SizeofNfgenmsg, len(msg)):])
	e.tuple, e.zone, e.id = as.Get(nl.CTA_TUPLE_ORIG), as.Get(nl.CTA_ZONE), as.Get(nl.CTA_ID)
	tuple := nfnetlink.Attributes(e.tuple)
	ip, proto := tuple.Nested(nl.CTA_TUPLE_IP), tuple.Nested(nl.CTA_TUPLE_PROTO)
	addr, ok := netip.AddrFromSlice(ip.Get(nl.CTA_IP_V4_DST))
	if !ok {
		addr, _ = netip.AddrFromSlice(ip.Get(nl.CTA_IP_V6_DST))
	}
	if b := proto.Get(nl.CTA_PROTO_NUM); len(b) == 1 {
		e.protocol = b[0]
	}
	var port uint16
	if b := proto.Get(nl.CTA_PROTO_DST_PORT); len(b) == 2 {
		port = binary.BigEndian.Uint16(b)
	}
	e.destination = netip.AddrPortFrom(addr, port)
	return e
}

// clone returns the entry in memory of its own: one entry that is kept must not
// keep a whole datagram of others.
func (e entry) clone() entry {
	e.tuple, e.zone, e.id = bytes.Clone(e.tuple), bytes.Clone(e.zone), bytes.Clone(e.id)
	return e
}
