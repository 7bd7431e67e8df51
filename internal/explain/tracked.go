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
	ad, err := netlink.NewAttributeDecoder(msgs[0][4:])
	if err != nil {
		return netip.AddrPort{}, false
	}
	ad.ByteOrder = binary.BigEndian
	var addr netip.Addr
	var port uint16
	for ad.Next() {
		if ad.Type() != ctaTupleReply {
			continue
		}
		ad.Nested(func(t *netlink.AttributeDecoder) error {
			for t.Next() {
				t.Nested(func(n *netlink.AttributeDecoder) error {
					for n.Next() {
						switch {
						case t.Type() == ctaTupleIP && n.Type() == src:
							addr, _ = netip.AddrFromSlice(n.Bytes())
						case t.Type() == ctaTupleProto && n.Type() == ctaProtoSrc:
							port = n.Uint16()
						}
					}
					return nil
				})
			}
			return nil
		})
	}
	return netip.AddrPortFrom(addr, port), addr.IsValid()
}
