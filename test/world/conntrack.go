package world

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
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
