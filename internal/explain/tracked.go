package explain

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// tracked returns the destination of a tracked connection: the source that
// connection tracking expects of replies. It reports false without an entry.
func tracked(p hostport.Protocol, from, to netip.AddrPort) (netip.AddrPort, bool) {
	src, dst := nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if to.Addr().Is6() {
		src, dst = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	orig, proto := originalTuple(p, to)
	proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, nl.BEUint16Attr(from.Port()))
	ip := orig.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil)
	ip.AddRtAttr(src, from.Addr().AsSlice())
	ip.AddRtAttr(dst, to.Addr().AsSlice())
	// The kernel flags its single reply as one of several. The acknowledgement
	// that follows ends the read.
	msgs, err := connections(to, unix.NLM_F_ACK, orig)
	if err != nil || len(msgs) == 0 {
		return netip.AddrPort{}, false
	}
	answer := decodeTuple(msgs[0].Nested(nl.CTA_TUPLE_REPLY))
	return answer.source, answer.source.Addr().IsValid()
}

// Attributes that filter a dump (Linux 5.8). Earlier kernels list all connections.
const (
	ctaFilter          = 25
	ctaFilterOrigFlags = 1
	filterProtoNum     = 1 << 3
	filterProtoDst     = 1 << 5
)

// flows counts the tracked connections to an address and port of the node, by
// destination.
func flows(p hostport.Protocol, to netip.AddrPort) (map[netip.AddrPort]int, error) {
	orig, _ := originalTuple(p, to)
	filter := nl.NewRtAttr(ctaFilter|unix.NLA_F_NESTED, nil)
	filter.AddRtAttr(ctaFilterOrigFlags, nl.Uint32Attr(filterProtoNum|filterProtoDst))
	msgs, err := connections(to, unix.NLM_F_DUMP, orig, filter)
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return nil, err
	}
	out := map[netip.AddrPort]int{}
	for _, m := range msgs {
		if t := decodeTuple(m.Nested(nl.CTA_TUPLE_ORIG)); t.protocol == p.Number() && t.destination == to {
			out[decodeTuple(m.Nested(nl.CTA_TUPLE_REPLY)).source]++
		}
	}
	return out, nil
}

// originalTuple returns attributes for the original direction of connections to
// a port, and the nested attribute with the ports.
func originalTuple(p hostport.Protocol, to netip.AddrPort) (orig, proto *nl.RtAttr) {
	orig = nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, nil)
	proto = orig.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, nl.Uint8Attr(p.Number()))
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(to.Port()))
	return orig, proto
}

// connections asks connection tracking for entries of the address's family.
func connections(to netip.AddrPort, flags int, attrs ...*nl.RtAttr) ([]nfnetlink.Attributes, error) {
	family := uint8(unix.AF_INET)
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	for _, a := range attrs {
		req.AddData(a)
	}
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	var out []nfnetlink.Attributes
	for _, m := range msgs {
		if len(m) > nl.SizeofNfgenmsg {
			out = append(out, m[nl.SizeofNfgenmsg:])
		}
	}
	return out, err
}

// tuple is one direction of a connection.
type tuple struct {
	protocol            byte
	source, destination netip.AddrPort
}

func decodeTuple(as nfnetlink.Attributes) tuple {
	ip, proto := as.Nested(nl.CTA_TUPLE_IP), as.Nested(nl.CTA_TUPLE_PROTO)
	end := func(v4, v6, port uint16) netip.AddrPort {
		a, ok := netip.AddrFromSlice(ip.Get(v4))
		if !ok {
			a, _ = netip.AddrFromSlice(ip.Get(v6))
		}
		return netip.AddrPortFrom(a, proto.Uint16(port))
	}
	return tuple{
		protocol:    proto.Uint8(nl.CTA_PROTO_NUM),
		source:      end(nl.CTA_IP_V4_SRC, nl.CTA_IP_V6_SRC, nl.CTA_PROTO_SRC_PORT),
		destination: end(nl.CTA_IP_V4_DST, nl.CTA_IP_V6_DST, nl.CTA_PROTO_DST_PORT),
	}
}
