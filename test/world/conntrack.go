package world

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// UDPFlows lists the node's conntrack entries of UDP with that original
// destination port, sorted, as "source -> destination => who answers".
func (w *World) UDPFlows(port int) []string {
	w.t.Helper()
	var found []string
	w.Node.Do(func() error {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return err
			}
			for _, f := range flows {
				if f.Forward.Protocol == unix.IPPROTO_UDP && int(f.Forward.DstPort) == port {
					found = append(found, fmt.Sprintf("%s -> %s => %s",
						tuple(f.Forward.SrcIP, f.Forward.SrcPort),
						tuple(f.Forward.DstIP, f.Forward.DstPort),
						tuple(f.Reverse.SrcIP, f.Reverse.SrcPort)))
				}
			}
		}
		return nil
	})
	slices.Sort(found)
	return found
}

func tuple(ip []byte, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// FillConntrack fills the node's connection tracking table, with UDP flows that
// the kernel does not evict for others.
func (w *World) FillConntrack() {
	w.t.Helper()
	w.Node.Do(func() error {
		socket, err := nl.Subscribe(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer socket.Close()
		for i := 0; ; i++ {
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1024)
			server := netip.AddrPortFrom(V4.Elsewhere(), 53)
			r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|int(nl.IPCTNL_MSG_CT_NEW), unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
			r.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: socket}}
			r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
			r.AddData(udpTuple(nl.CTA_TUPLE_ORIG, client, server))
			r.AddData(udpTuple(nl.CTA_TUPLE_REPLY, server, client))
			r.AddData(nl.NewRtAttr(nl.CTA_STATUS, nl.BEUint32Attr(statusSeenReply|statusAssured|statusConfirmed)))
			r.AddData(nl.NewRtAttr(nl.CTA_TIMEOUT, nl.BEUint32Attr(3600)))
			switch _, err := r.Execute(unix.NETLINK_NETFILTER, 0); {
			case errors.Is(err, unix.ENOMEM):
				return nil
			case err != nil:
				return fmt.Errorf("make flow %d: %w", i, err)
			}
		}
	})
}

// Bits of a flow's status, as in linux/netfilter/nf_conntrack_common.h.
const (
	statusSeenReply = 1 << 1
	statusAssured   = 1 << 2
	statusConfirmed = 1 << 3
)

func udpTuple(kind int, from, to netip.AddrPort) *nl.RtAttr {
	t := nl.NewRtAttr(unix.NLA_F_NESTED|kind, nil)
	ip := t.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil)
	ip.AddRtAttr(nl.CTA_IP_V4_SRC, from.Addr().AsSlice())
	ip.AddRtAttr(nl.CTA_IP_V4_DST, to.Addr().AsSlice())
	ports := t.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
	ports.AddRtAttr(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_UDP})
	ports.AddRtAttr(nl.CTA_PROTO_SRC_PORT, nl.BEUint16Attr(from.Port()))
	ports.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(to.Port()))
	return t
}
