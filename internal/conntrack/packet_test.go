package conntrack

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// lead replaces the namespace's only rule: local UDP packets to port 5353 are
// translated to the pod.
func lead(t *testing.T, f hostport.Family, pod netip.AddrPort) {
	t.Helper()
	family, nat := nftables.TableFamilyIPv4, uint32(unix.NFPROTO_IPV4)
	if f == hostport.IPv6 {
		family, nat = nftables.TableFamilyIPv6, unix.NFPROTO_IPV6
	}
	c, err := nftables.New()
	must(t, err)
	table := &nftables.Table{Name: "test", Family: family}
	c.AddTable(table)
	c.DelTable(table)
	c.AddTable(table)
	chain := c.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	port := func(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: port(5353)},
		&expr.Immediate{Register: 1, Data: pod.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: port(pod.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: nat, RegAddrMin: 1, RegProtoMin: 2},
	}})
	must(t, c.Flush())
}

// TestPacketsAreLedAnew wants a client that keeps sending from one port to
// reach the new pod once its flow is flushed, and not before; its flow to the
// same port elsewhere keeps its destination.
func TestPacketsAreLedAnew(t *testing.T) {
	for _, tc := range []struct {
		f                       hostport.Family
		own, elsewhere, podAddr string
	}{
		{hostport.IPv4, "192.0.2.1", "198.51.100.53", "127.0.0.1"},
		{hostport.IPv6, "2001:db8::1", "2001:db8:1::53", "::1"},
	} {
		t.Run(tc.f.String(), func(t *testing.T) {
			must(t, node(t).Do(func(ns.NetNS) error {
				lo, err := netlink.LinkByName("lo")
				must(t, err)
				everywhere, err := netlink.ParseIPNet(map[hostport.Family]string{hostport.IPv4: "198.51.100.0/24", hostport.IPv6: "2001:db8:1::/48"}[tc.f])
				must(t, err)
				must(t, netlink.RouteAdd(&netlink.Route{Dst: everywhere, LinkIndex: lo.Attrs().Index}))
				pod1, addr1 := server(t, tc.podAddr)
				pod2, addr2 := server(t, tc.podAddr)
				client, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(tc.own), 0)))
				must(t, err)
				defer func() { _ = client.Close() }()
				node := netip.AddrPortFrom(netip.MustParseAddr(tc.own), 5353)
				elsewhere := netip.AddrPortFrom(netip.MustParseAddr(tc.elsewhere), 5353)

				lead(t, tc.f, addr1)
				expect(t, "before", client, node, pod1, pod2)
				expect(t, "elsewhere, before", client, elsewhere, pod1, pod2)
				lead(t, tc.f, addr2)
				expect(t, "led anew, not flushed", client, node, pod1, pod2)
				must(t, Flush(t.Context(), anyAddress(5353)))
				expect(t, "flushed", client, node, pod2, pod1)
				expect(t, "elsewhere, after", client, elsewhere, pod1, pod2)
				if left := flows(t); !slices.ContainsFunc(left, func(s string) bool { return strings.Contains(s, ">"+elsewhere.String()) }) {
					t.Errorf("the flow to elsewhere lost its entry: %v", left)
				}
				return nil
			}))
		})
	}
}

func server(t *testing.T, addr string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0)))
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	at := c.LocalAddr().(*net.UDPAddr).AddrPort()
	return c, netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// expect sends a packet and checks which server receives it. On lo it has
// arrived when the send call returns.
func expect(t *testing.T, what string, client *net.UDPConn, to netip.AddrPort, want, not *net.UDPConn) {
	t.Helper()
	_, err := client.WriteToUDPAddrPort([]byte(what), to)
	must(t, err)
	buf := make([]byte, 64)
	must(t, want.SetReadDeadline(time.Now().Add(10*time.Second)))
	if n, err := want.Read(buf); err != nil || string(buf[:n]) != what {
		t.Errorf("%s: the right pod has %q, %v", what, buf[:n], err)
	}
	must(t, not.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	if n, err := not.Read(buf); err == nil {
		t.Errorf("%s: the wrong pod has %q", what, buf[:n])
	}
}
