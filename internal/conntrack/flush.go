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

// Flush removes the entries of flows to the host side of the UDP mappings among
// some, whatever their zone. With none it does nothing. It is idempotent; an entry
// that has gone by itself meanwhile is no error. On an error some entries may have
// been removed; what could be removed beside one that could not, has been.
//
// Its cost is one walk of the kernel's table for each port and family, or for
// each family where the ports are many (see maxWalks), and the copying of
// the entries found by it. The walk is in the kernel, which has no index by
// destination.
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

// maxWalks is up to how many ports the kernel's table is walked once for
// each; above, it is walked once for all UDP flows. Of 500,000 entries, all
// UDP, a walk that finds nothing takes 160 ms of processor time and one that
// hands out every entry 940 ms (BenchmarkFlush, Linux 6.18): the two cost the
// same at six ports, and at three to four if half of the entries are UDP.
const maxWalks = 3

// anyPort is every port of UDP.
const anyPort = 0

// wanted is what is to be removed of one family: port -> host IPs, the zero Addr for
// any of the node's addresses.
type wanted map[uint16][]netip.Addr

// removeStale removes a family's entries that are wanted. It walks the kernel's table once
// for each port if these are at most maxWalks, or else once.
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

// has reports whether the entry is of a flow to be removed. It is asked about
// every entry, whatever the kernel was told to filter by.
func (w wanted) has(entry []byte, local map[netip.Addr]bool) bool {
	to, protocol := destination(entry)
	return protocol == hostport.UDP.Number() && slices.ContainsFunc(w[to.Port()], func(ip netip.Addr) bool {
		if ip.IsValid() {
			return ip == to.Addr()
		}
		return local[to.Addr()] || to.Addr().IsLoopback()
	})
}

// localAddresses returns the node's addresses, less those that IsLoopback knows.
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
