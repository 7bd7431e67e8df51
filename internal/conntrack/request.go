package conntrack

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// What the kernel is asked to filter a dump by, other than UDP and one destination
// port.
const (
	anyPort    = 0  // UDP
	unfiltered = -1 // the family alone, which every kernel can
)

// Attributes of linux/netfilter/nfnetlink_conntrack.h that filter a dump, since
// Linux 5.8.
const (
	attrFilter      = 25 // nested, filter...
	filterOrigFlags = 1  // 4 bytes, native endian: which of the tuple counts

	flagProtoNum     = 1 << 3 // bits of filterOrigFlags
	flagProtoDstPort = 1 << 5
)

// socket is a netlink socket to the kernel's conntrack table.
type socket map[int]*nl.SocketHandle

func dial() (socket, error) {
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	// The kernel answers while it is asked, or not at all: without a limit a
	// read could wait for ever.
	if err := s.SetReceiveTimeout(&unix.Timeval{Sec: 10}); err != nil {
		s.Close()
		return nil, fmt.Errorf("set up netfilter socket: %w", err)
	}
	return socket{unix.NETLINK_NETFILTER: {Socket: s}}, nil
}

func (s socket) close() { s[unix.NETLINK_NETFILTER].Close() }

// dump asks for the entries of a family, filtered.
func (s socket) dump(f hostport.Family, by int) *nl.NetlinkRequest {
	r := s.request(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, f)
	if by == unfiltered {
		return r
	}
	flags := uint32(flagProtoNum)
	tuple := nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, nil)
	proto := tuple.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, nl.Uint8Attr(hostport.UDP.Number()))
	if by != anyPort {
		flags |= flagProtoDstPort
		proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(uint16(by)))
	}
	r.AddData(tuple)
	r.AddData(filter(flags))
	return r
}

func filter(flags uint32) *nl.RtAttr {
	a := nl.NewRtAttr(attrFilter|unix.NLA_F_NESTED, nil)
	a.AddRtAttr(filterOrigFlags, nl.Uint32Attr(flags))
	return a
}

// delete asks to delete one entry. The ID, made of the entry's address
// in memory, keeps a flow that was decided anew meanwhile, unless its entry came
// to lie in the same place.
func (s socket) delete(f hostport.Family, e entry) *nl.NetlinkRequest {
	r := s.request(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, f)
	r.AddData(nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, e.tuple))
	if e.zone != nil {
		r.AddData(nl.NewRtAttr(nl.CTA_ZONE, e.zone))
	}
	if e.id != nil {
		r.AddData(nl.NewRtAttr(nl.CTA_ID, e.id))
	}
	return r
}

func (s socket) request(kind, flags int, f hostport.Family) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|kind, flags)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: nfnetlink.Family(f), Version: nl.NFNETLINK_V0})
	r.Sockets = s
	return r
}
