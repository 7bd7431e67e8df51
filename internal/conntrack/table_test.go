package conntrack

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/netns"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// namespace creates an empty network namespace with lo up.
func namespace(t testing.TB) ns.NetNS {
	t.Helper()
	n := netns.New(t)
	must(t, n.Do(func(ns.NetNS) error {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		return netlink.LinkSetUp(lo)
	}))
	return n
}

// address adds an address to an interface of the calling thread's namespace.
func address(t testing.TB, link, prefix string) {
	t.Helper()
	l, err := netlink.LinkByName(link)
	must(t, err)
	a, err := netlink.ParseAddr(prefix)
	must(t, err)
	a.Flags |= unix.IFA_F_NODAD
	must(t, netlink.AddrAdd(l, a))
}

// flow is an entry to create: both directions, as after a translation.
type flow struct {
	protocol uint8
	src, dst netip.AddrPort
	to       netip.AddrPort // translated destination; zero: dst
	zone     uint16
}

func udp(src, dst string) flow {
	return flow{protocol: 17, src: netip.MustParseAddrPort(src), dst: netip.MustParseAddrPort(dst)}
}

func (f flow) String() string {
	return fmt.Sprintf("%d %s>%s zone %d", f.protocol, f.src, f.dst, f.zone)
}

// request returns the request that creates the entry.
func (f flow) request() *nl.NetlinkRequest {
	to := f.to
	if !to.IsValid() {
		to = f.dst
	}
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_NEW, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: nfnetlink.Family(hostport.FamilyOf(f.dst.Addr())), Version: nl.NFNETLINK_V0})
	r.AddData(tuple(nl.CTA_TUPLE_ORIG, f.protocol, f.src, f.dst))
	r.AddData(tuple(nl.CTA_TUPLE_REPLY, f.protocol, to, f.src))
	r.AddData(nl.NewRtAttr(nl.CTA_TIMEOUT, nl.BEUint32Attr(3600)))
	if f.protocol == unix.IPPROTO_TCP {
		info := nl.NewRtAttr(nl.CTA_PROTOINFO|unix.NLA_F_NESTED, nil)
		tcp := info.AddRtAttr(nl.CTA_PROTOINFO_TCP|unix.NLA_F_NESTED, nil)
		tcp.AddRtAttr(nl.CTA_PROTOINFO_TCP_STATE, nl.Uint8Attr(nl.TCP_CONNTRACK_ESTABLISHED))
		r.AddData(info)
	}
	if f.zone != 0 {
		r.AddData(nl.NewRtAttr(nl.CTA_ZONE, nl.BEUint16Attr(f.zone)))
	}
	return r
}

func tuple(kind int, protocol uint8, src, dst netip.AddrPort) *nl.RtAttr {
	srcKind, dstKind := nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if src.Addr().Is6() {
		srcKind, dstKind = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	a := nl.NewRtAttr(kind|unix.NLA_F_NESTED, nil)
	ip := a.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil)
	ip.AddRtAttr(srcKind, src.Addr().AsSlice())
	ip.AddRtAttr(dstKind, dst.Addr().AsSlice())
	proto := a.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, nl.Uint8Attr(protocol))
	proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, nl.BEUint16Attr(src.Port()))
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(dst.Port()))
	return a
}

// add creates entries in the calling thread's network namespace.
func add(t testing.TB, flows ...flow) {
	t.Helper()
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	must(t, err)
	defer s.Close()
	for _, f := range flows {
		r := f.request()
		r.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: s}}
		_, err := r.Execute(unix.NETLINK_NETFILTER, 0)
		must(t, err)
	}
}

// flows lists the namespace's entries with another implementation.
func flows(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		list, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		must(t, err)
		for _, e := range list {
			f := flow{protocol: e.Forward.Protocol, zone: e.Zone}
			src, _ := netip.AddrFromSlice(e.Forward.SrcIP)
			dst, _ := netip.AddrFromSlice(e.Forward.DstIP)
			f.src = netip.AddrPortFrom(src.Unmap(), e.Forward.SrcPort)
			f.dst = netip.AddrPortFrom(dst.Unmap(), e.Forward.DstPort)
			out = append(out, f.String())
		}
	}
	slices.Sort(out)
	return out
}
