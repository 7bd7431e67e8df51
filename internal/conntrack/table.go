package conntrack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Attributes from linux/netfilter/nfnetlink_conntrack.h that filter a dump,
// since Linux 5.8.
const (
	attrFilter      = 25 // nested, filter...
	filterOrigFlags = 1  // 4 bytes, native endian: which parts of the tuple count

	flagProtoNum     = 1 << 3 // bits of filterOrigFlags
	flagProtoDstPort = 1 << 5
)

// dump returns a request for the UDP entries of a family, with one destination
// port unless that is anyPort.
func dump(f hostport.Family, port uint16) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: nfnetlink.Family(f), Version: nl.NFNETLINK_V0})
	flags := uint32(flagProtoNum)
	tuple := nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, nil)
	proto := tuple.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, nl.Uint8Attr(hostport.UDP.Number()))
	if port != anyPort {
		flags |= flagProtoDstPort
		proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(port))
	}
	filter := nl.NewRtAttr(attrFilter|unix.NLA_F_NESTED, nil)
	filter.AddRtAttr(filterOrigFlags, nl.Uint32Attr(flags))
	r.AddData(tuple)
	r.AddData(filter)
	return r
}

// destination returns the original destination of a flow, and its protocol.
// entry is the data of a conntrack message: a struct nfgenmsg and attributes. A
// flow without ports (ICMP, GRE) has port 0. It allocates nothing: a dump may
// have half a million entries.
func destination(entry []byte) (to netip.AddrPort, protocol uint8) {
	tuple := nfnetlink.Attributes(entry[min(nl.SizeofNfgenmsg, len(entry)):]).Nested(nl.CTA_TUPLE_ORIG)
	ip, proto := tuple.Nested(nl.CTA_TUPLE_IP), tuple.Nested(nl.CTA_TUPLE_PROTO)
	addr, ok := netip.AddrFromSlice(ip.Get(nl.CTA_IP_V4_DST))
	if !ok {
		addr, _ = netip.AddrFromSlice(ip.Get(nl.CTA_IP_V6_DST))
	}
	return netip.AddrPortFrom(addr, proto.Uint16(nl.CTA_PROTO_DST_PORT)), proto.Uint8(nl.CTA_PROTO_NUM)
}

// maxAttempts is how often an interrupted dump is repeated.
const maxAttempts = 5

// find dumps the UDP entries of a port, or of anyPort, and returns those for which
// stale returns true. A kernel before Linux 5.8 ignores the filter, and dumps the
// whole family.
func find(ctx context.Context, f hostport.Family, port uint16, stale func(entry []byte) bool) (found [][]byte, err error) {
	for range maxAttempts {
		found = nil
		err = dump(f, port).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(entry []byte) bool {
			if stale(entry) {
				found = append(found, bytes.Clone(entry)) // entry would keep a whole datagram in memory
			}
			return ctx.Err() == nil
		})
		if !errors.Is(err, nl.ErrDumpInterrupted) { // otherwise the table was rebuilt during the dump
			break
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, unix.EINVAL): // nfnetlink's error for a subsystem that it does not have
		err = fmt.Errorf("the kernel has no conntrack over netlink (CONFIG_NF_CT_NETLINK, module nf_conntrack_netlink): %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("list conntrack entries: %w", err)
	}
	return found, nil
}

// remove deletes entries as they were listed. An entry that cannot be deleted does
// not stop the others; the first such error is returned. The ID among an entry's
// attributes, derived from its address in memory, protects an entry that was
// recreated meanwhile, unless it has the same address.
func remove(ctx context.Context, entries [][]byte) error {
	var failed []error
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		r.AddRawData(entry)
		_, err := r.Execute(unix.NETLINK_NETFILTER, 0)
		if err != nil && !errors.Is(err, unix.ENOENT) { // otherwise it expired
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("delete %d of %d conntrack entries: %w", len(failed), len(entries), failed[0])
	}
	return nil
}
