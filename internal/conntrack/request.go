package conntrack

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// filterKind is by what the kernel is asked to filter a dump.
type filterKind uint8

// From the finest to none at all.
const (
	byPort     filterKind = iota // UDP to one destination port
	byProtocol                   // UDP
	byFamily                     // IPv4 or IPv6, which every kernel can
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
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, fmt.Errorf("open netfilter socket: the kernel has no netfilter over netlink (CONFIG_NETFILTER_NETLINK): %w", err)
	}
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

// execute sends a request and calls f with the data of each message of the
// answer, until f fails.
func (s socket) execute(r *nl.NetlinkRequest, f func(data []byte) error) error {
	var failed error
	r.Sockets = s
	err := r.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(data []byte) bool {
		failed = f(data)
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

// dumpRequest asks for the entries of a family, filtered.
func dumpRequest(f hostport.Family, by filterKind, port uint16) *nl.NetlinkRequest {
	r := newRequest(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, f)
	if by == byFamily {
		return r
	}
	flags := uint32(flagProtoNum)
	tuple := nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, nil)
	proto := tuple.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, nl.Uint8Attr(hostport.UDP.Number()))
	if by == byPort {
		flags |= flagProtoDstPort
		proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(port))
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

// deleteRequest asks to delete one entry. The ID, made of the entry's address
// in memory, keeps a flow that was decided anew meanwhile, unless its entry came
// to lie in the same place.
func deleteRequest(e entry) *nl.NetlinkRequest {
	r := newRequest(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, hostport.FamilyOf(e.destination))
	r.AddData(nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, e.tuple))
	if e.zone != nil {
		r.AddData(nl.NewRtAttr(nl.CTA_ZONE, e.zone))
	}
	if e.id != nil {
		r.AddData(nl.NewRtAttr(nl.CTA_ID, e.id))
	}
	return r
}

func newRequest(kind, flags int, f hostport.Family) *nl.NetlinkRequest {
	family := uint8(unix.AF_INET)
	if f == hostport.IPv6 {
		family = unix.AF_INET6
	}
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|kind, flags)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	return r
}
