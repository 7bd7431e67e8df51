// Package conntrack removes the connection tracking entries of stale UDP flows.
//
// The kernel determines a UDP flow's destination at its first packet, and keeps it while
// packets keep arriving. A client that sent to a host port before its mapping was added,
// or after it was deleted, would never reach the pod that has the port now. So the
// entries of flows to a mapping's port are removed when the mapping is added and when it
// is deleted. TCP and SCTP do not need this: a connection without a peer ends by itself.
//
// Only flows whose original destination is the node itself are removed. Flows to the same
// port elsewhere, above all the node's and the pods' DNS queries, keep their entries. The
// node's addresses are those of its interfaces, and 127.0.0.0/8; prefixes that a route of
// type local adds to them are not considered.
//
// The package works on the calling thread's network namespace.
package conntrack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Flush removes the entries of flows to the host ports of the UDP mappings in mappings,
// in every zone. It is idempotent; an entry that expired meanwhile is no error. An entry
// that cannot be removed does not stop the others.
func Flush(ctx context.Context, mappings []hostport.Forward) error {
	var errs []error
	for _, f := range hostport.Families() {
		hostIPs := make(map[uint16][]netip.Addr)
		for _, m := range mappings {
			if m.Protocol == hostport.UDP && hostport.FamilyOf(m.To.Addr()) == f {
				hostIPs[m.HostPort] = append(hostIPs[m.HostPort], m.HostIP)
			}
		}
		if len(hostIPs) == 0 {
			continue
		}
		if err := removeStale(ctx, f, hostIPs); err != nil {
			errs = append(errs, fmt.Errorf("remove stale %s UDP flows: %w", f, err))
		}
	}
	return errors.Join(errs...)
}

// maxWalks is the number of ports up to which the kernel's table, which has no index by
// destination, is walked once per port; with more it is walked once for all UDP flows.
// With 500,000 entries, all UDP, a walk that finds nothing takes 160 ms of processor time
// and one that returns every entry 940 ms (BenchmarkFlush, Linux 6.18): the two cost the
// same at six ports, and at three to four if half of the entries are UDP.
const maxWalks = 3

const anyPort = 0 // stands for every UDP port

// removeStale removes the entries of one family to these ports and host IPs, of which the
// zero Addr stands for any of the node's addresses.
func removeStale(ctx context.Context, f hostport.Family, hostIPs map[uint16][]netip.Addr) error {
	addrs, err := netlinksafe.AddrList(nil, int(nfnetlink.Family(f))) // netfilter numbers families as sockets do
	if err != nil {
		return fmt.Errorf("list addresses of the node: %w", err)
	}
	local := make(map[netip.Addr]bool)
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			local[ip.Unmap()] = true
		}
	}
	stale := func(entry []byte) bool { // whatever filter the kernel applied
		to, protocol := destination(entry)
		return protocol == hostport.UDP.Number() && slices.ContainsFunc(hostIPs[to.Port()], func(ip netip.Addr) bool {
			if ip.IsValid() {
				return ip == to.Addr()
			}
			return local[to.Addr()] || to.Addr().IsLoopback()
		})
	}
	ports := slices.Collect(maps.Keys(hostIPs))
	if len(ports) > maxWalks {
		ports = []uint16{anyPort}
	}
	var found [][]byte
	for _, port := range ports {
		more, err := find(ctx, f, port, stale)
		if err != nil {
			return err
		}
		found = append(found, more...)
	}
	return remove(ctx, found)
}

// Attributes from linux/netfilter/nfnetlink_conntrack.h that filter a dump,
// since Linux 5.8.
const (
	attrFilter       = 25     // nested, filter...
	filterOrigFlags  = 1      // 4 bytes, native endian: which parts of the tuple count
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

// destination returns the original destination of a flow, and its protocol. entry is the
// data of a conntrack message: a struct nfgenmsg and attributes. A flow without ports
// (ICMP, GRE) has port 0. It allocates nothing: there may be half a million entries.
func destination(entry []byte) (to netip.AddrPort, protocol uint8) {
	tuple := nfnetlink.Attributes(entry[min(nl.SizeofNfgenmsg, len(entry)):]).Nested(nl.CTA_TUPLE_ORIG)
	ip, proto := tuple.Nested(nl.CTA_TUPLE_IP), tuple.Nested(nl.CTA_TUPLE_PROTO)
	addr, ok := netip.AddrFromSlice(ip.Get(nl.CTA_IP_V4_DST))
	if !ok {
		addr, _ = netip.AddrFromSlice(ip.Get(nl.CTA_IP_V6_DST))
	}
	return netip.AddrPortFrom(addr, proto.Uint16(nl.CTA_PROTO_DST_PORT)), proto.Uint8(nl.CTA_PROTO_NUM)
}

// find dumps the UDP entries of a port, or of anyPort, and returns those for which stale
// returns true. Before Linux 5.8 the kernel ignores the filter, and dumps the whole family.
func find(ctx context.Context, f hostport.Family, port uint16, stale func(entry []byte) bool) (found [][]byte, err error) {
	for range 5 {
		found = nil
		err = dump(f, port).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(entry []byte) bool {
			if stale(entry) {
				found = append(found, bytes.Clone(entry)) // entry would keep a whole datagram in memory
			}
			return ctx.Err() == nil
		})
		if !errors.Is(err, nl.ErrDumpInterrupted) { // else the table was rebuilt during the dump
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

// remove deletes entries as they were listed, all that it can, and returns the first
// error. The ID among an entry's attributes, derived from its address in memory,
// protects an entry that was recreated meanwhile, unless it has the same address.
func remove(ctx context.Context, entries [][]byte) error {
	if len(entries) == 0 {
		return nil
	}
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	defer s.Close()
	if err := s.SetReceiveTimeout(&nl.SocketTimeoutTv); err != nil { // otherwise the wait for an answer is unbounded
		return fmt.Errorf("set timeout of netfilter socket: %w", err)
	}
	one := map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: s}} // one socket per request would take 1.6 times as long
	var failed []error
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		r.AddRawData(entry)
		r.Sockets = one
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
