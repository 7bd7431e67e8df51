package explain

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Of linux/netfilter/nfnetlink_conntrack.h.
const (
	ipctnlMsgCtGet = 1
	ctaTupleOrig   = 1
	ctaTupleReply  = 2
	ctaTupleIP     = 1
	ctaTupleProto  = 2
	ctaIPv4Src     = 1
	ctaIPv4Dst     = 2
	ctaIPv6Src     = 3
	ctaIPv6Dst     = 4
	ctaProtoNum    = 1
	ctaProtoSrc    = 2
	ctaProtoDst    = 3
)

// tracked returns where connection tracking leads a connection: the source that
// it expects of answers. It reports false without an entry.
func tracked(p hostport.Protocol, from, to netip.AddrPort) (netip.AddrPort, bool) {
	family, src, dst := byte(unix.AF_INET), uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
	if to.Addr().Is6() {
		family, src, dst = unix.AF_INET6, ctaIPv6Src, ctaIPv6Dst
	}
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Nested(ctaTupleOrig, func(t *netlink.AttributeEncoder) error {
		t.Nested(ctaTupleIP, func(n *netlink.AttributeEncoder) error {
			n.Bytes(src, from.Addr().AsSlice())
			n.Bytes(dst, to.Addr().AsSlice())
			return nil
		})
		t.Nested(ctaTupleProto, func(n *netlink.AttributeEncoder) error {
			n.Uint8(ctaProtoNum, p.Number())
			n.Uint16(ctaProtoSrc, from.Port())
			n.Uint16(ctaProtoDst, to.Port())
			return nil
		})
		return nil
	})
	data, err := e.Encode()
	if err != nil {
		return netip.AddrPort{}, false
	}
	// The kernel flags its only reply as one of several. The acknowledgement that
	// follows ends the reading.
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|ipctnlMsgCtGet, unix.NLM_F_ACK)
	req.AddRawData(append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...))
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil || len(msgs) == 0 || len(msgs[0]) < 4 {
		return netip.AddrPort{}, false
	}
	_, reply, err := decodeConnection(msgs[0])
	return reply.source, err == nil && reply.source.Addr().IsValid()
}

// tuple is one direction of a connection.
type tuple struct {
	protocol            byte
	source, destination netip.AddrPort
}

// decodeConnection reads a message about one connection.
func decodeConnection(msg []byte) (original, reply tuple, err error) {
	ad, err := netlink.NewAttributeDecoder(msg[min(4, len(msg)):])
	if err != nil {
		return original, reply, err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleOrig:
			ad.Nested(original.decode)
		case ctaTupleReply:
			ad.Nested(reply.decode)
		}
	}
	return original, reply, ad.Err()
}

func (t *tuple) decode(ad *netlink.AttributeDecoder) error {
	var src, dst netip.Addr
	var sport, dport uint16
	for ad.Next() {
		part := ad.Type()
		ad.Nested(func(n *netlink.AttributeDecoder) error {
			for n.Next() {
				switch kind := n.Type(); {
				case part == ctaTupleIP && (kind == ctaIPv4Src || kind == ctaIPv6Src):
					src, _ = netip.AddrFromSlice(n.Bytes())
				case part == ctaTupleIP && (kind == ctaIPv4Dst || kind == ctaIPv6Dst):
					dst, _ = netip.AddrFromSlice(n.Bytes())
				case part == ctaTupleProto && kind == ctaProtoNum:
					t.protocol = n.Uint8()
				case part == ctaTupleProto && kind == ctaProtoSrc:
					sport = n.Uint16()
				case part == ctaTupleProto && kind == ctaProtoDst:
					dport = n.Uint16()
				}
			}
			return nil
		})
	}
	t.source, t.destination = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return nil
}

// Attributes that filter a dump (Linux 5.8). Earlier kernels list all connections.
const (
	ctaFilter          = 25
	ctaFilterOrigFlags = 1
	filterProtoNum     = 1 << 3
	filterProtoDst     = 1 << 5
)

// flows counts the tracked connections to an address and port of the node, by where
// they lead.
func flows(p hostport.Protocol, to netip.AddrPort) (map[netip.AddrPort]int, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Nested(ctaTupleOrig, func(t *netlink.AttributeEncoder) error {
		t.Nested(ctaTupleProto, func(n *netlink.AttributeEncoder) error {
			n.Uint8(ctaProtoNum, p.Number())
			n.Uint16(ctaProtoDst, to.Port())
			return nil
		})
		return nil
	})
	e.Nested(ctaFilter, func(n *netlink.AttributeEncoder) error {
		n.Bytes(ctaFilterOrigFlags, native32(filterProtoNum|filterProtoDst))
		return nil
	})
	data, err := e.Encode()
	if err != nil {
		return nil, err
	}
	family := byte(unix.AF_INET)
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	msgs, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type: netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK<<8 | ipctnlMsgCtGet), Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	})
	if err != nil {
		return nil, err
	}
	out := map[netip.AddrPort]int{}
	for _, m := range msgs {
		original, reply, err := decodeConnection(m.Data)
		if err == nil && original.protocol == p.Number() && original.destination == to {
			out[reply.source]++
		}
	}
	return out, nil
}
