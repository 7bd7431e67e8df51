package conntrack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/containernetworking/plugins/pkg/netlinksafe"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Flush removes the entries of flows to the host ports of the UDP mappings in
// mappings, in every zone. Without UDP mappings it does nothing. It is idempotent;
// an entry that expired meanwhile is no error. An entry that cannot be removed does
// not stop the others.
//
// It costs one walk of the kernel's table for each port and family, or for each
// family if there are many ports (see maxWalks), and copying the entries found.
// The walk is in the kernel, which has no index by destination.
func Flush(ctx context.Context, mappings []hostport.Forward) error {
	var errs []error
	for _, f := range hostport.Families() {
		w := make(wanted)
		for _, m := range mappings {
			if m.Protocol == hostport.UDP && hostport.FamilyOf(m.To.Addr()) == f {
				w[m.HostPort] = append(w[m.HostPort], m.HostIP)
			}
		}
		if len(w) == 0 {
			continue
		}
		if err := w.removeStale(ctx, f); err != nil {
			errs = append(errs, fmt.Errorf("remove stale %s UDP flows: %w", f, err))
		}
	}
	return errors.Join(errs...)
}

// maxWalks is the number of ports up to which the kernel's table is walked once
// per port; with more ports it is walked once for all UDP flows. With 500,000
// entries, all UDP, a walk that finds nothing takes 160 ms of processor time
// and one that returns every entry 940 ms (BenchmarkFlush, Linux 6.18): the two
// cost the same at six ports, and at three to four if half of the entries are
// UDP.
const maxWalks = 3

// anyPort stands for every UDP port.
const anyPort = 0

// wanted is what to remove of one family: port -> host IPs, the zero Addr for
// any of the node's addresses.
type wanted map[uint16][]netip.Addr

// removeStale removes the wanted entries of a family. It walks the kernel's
// table once per port for at most maxWalks ports, and otherwise once.
func (w wanted) removeStale(ctx context.Context, f hostport.Family) error {
	local, err := localAddresses(f)
	if err != nil {
		return err
	}
	ports := slices.Collect(maps.Keys(w))
	if len(ports) > maxWalks {
		ports = []uint16{anyPort}
	}
	var stale [][]byte
	for _, port := range ports {
		found, err := find(ctx, f, port, func(entry []byte) bool { return w.has(entry, local) })
		if err != nil {
			return err
		}
		stale = append(stale, found...)
	}
	return remove(ctx, stale)
}

// has reports whether the entry is of a flow to remove. It is called for every
// entry, whatever filter the kernel applied.
func (w wanted) has(entry []byte, local map[netip.Addr]bool) bool {
	to, protocol := destination(entry)
	return protocol == hostport.UDP.Number() && slices.ContainsFunc(w[to.Port()], func(ip netip.Addr) bool {
		if ip.IsValid() {
			return ip == to.Addr()
		}
		return local[to.Addr()] || to.Addr().IsLoopback()
	})
}

// localAddresses returns the node's addresses, except those for which
// IsLoopback returns true.
func localAddresses(f hostport.Family) (map[netip.Addr]bool, error) {
	addrs, err := netlinksafe.AddrList(nil, int(nfnetlink.Family(f))) // netfilter numbers families as sockets do
	if err != nil {
		return nil, fmt.Errorf("list addresses of the node: %w", err)
	}
	local := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			local[ip.Unmap()] = true
		}
	}
	return local, nil
}
