package conntrack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/netns"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// namespace makes an empty network namespace with lo up.
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

// address gives an interface of the calling thread's namespace an address.
func address(t testing.TB, link, prefix string) {
	t.Helper()
	l, err := netlink.LinkByName(link)
	must(t, err)
	a, err := netlink.ParseAddr(prefix)
	must(t, err)
	a.Flags |= unix.IFA_F_NODAD
	must(t, netlink.AddrAdd(l, a))
}

// flow is an entry to be made: both directions, as a NAT may have made them.
type flow struct {
	protocol uint8
	src, dst netip.AddrPort
	to       netip.AddrPort // where it was led; zero: dst
	zone     uint16
}

func udp(src, dst string) flow {
	return flow{protocol: 17, src: netip.MustParseAddrPort(src), dst: netip.MustParseAddrPort(dst)}
}

func (f flow) String() string {
	return fmt.Sprintf("%d %s>%s zone %d", f.protocol, f.src, f.dst, f.zone)
}

// appendNew appends the request that makes the entry.
func (f flow) appendNew(b []byte) []byte {
	to := f.to
	if !to.IsValid() {
		to = f.dst
	}
	return appendMessage(b, messageNew, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, hostport.FamilyOf(f.dst.Addr()), func(b []byte) []byte {
		b = appendAttr(b, attrTupleOrig|attrNested, tuple(f.protocol, f.src, f.dst)...)
		b = appendAttr(b, 2|attrNested, tuple(f.protocol, to, f.src)...) // CTA_TUPLE_REPLY
		b = appendAttr(b, 7, 0, 0, 0x0e, 0x10)                           // CTA_TIMEOUT: an hour
		if f.protocol == 6 {
			// CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE: established
			b = appendAttr(b, 4|attrNested, appendAttr(nil, 1|attrNested, appendAttr(nil, 1, 3)...)...)
		}
		if f.zone != 0 {
			b = appendAttr(b, attrZone, binary.BigEndian.AppendUint16(nil, f.zone)...)
		}
		return b
	})
}

func tuple(protocol uint8, src, dst netip.AddrPort) []byte {
	srcKind, dstKind := uint16(1), uint16(ipV4Dst)
	if src.Addr().Is6() {
		srcKind, dstKind = 3, ipV6Dst
	}
	ip := appendAttr(nil, srcKind, src.Addr().AsSlice()...)
	ip = appendAttr(ip, dstKind, dst.Addr().AsSlice()...)
	proto := appendAttr(nil, protoNum, protocol)
	proto = appendAttr(proto, 2, binary.BigEndian.AppendUint16(nil, src.Port())...)
	proto = appendAttr(proto, protoDstPort, binary.BigEndian.AppendUint16(nil, dst.Port())...)
	return appendAttr(appendAttr(nil, tupleIP|attrNested, ip...), tupleProto|attrNested, proto...)
}

// add makes entries in the calling thread's network namespace.
func add(t testing.TB, flows ...flow) {
	t.Helper()
	c, err := dial()
	must(t, err)
	defer c.close()
	for chunk := range slices.Chunk(flows, batch) {
		var b []byte
		for _, f := range chunk {
			b = f.appendNew(b)
		}
		_, err := c.send(b)
		must(t, err)
		for left := len(chunk); left > 0; {
			must(t, c.receive(func(m message) error {
				left--
				if err := errno(m); err != nil {
					return fmt.Errorf("make entry: %w", err)
				}
				return nil
			}))
		}
	}
}

// flows lists the namespace's entries with another program's eyes.
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
