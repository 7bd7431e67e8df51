package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Target is the host side of a UDP mapping.
type Target struct {
	// Port is the host port.
	Port uint16
	// HostIP is the node's address. The zero Addr is any of the node's own
	// addresses, of both families; 0.0.0.0 and :: are any of their family.
	HostIP netip.Addr
	// Family narrows a target to one family; 0 is every family that HostIP
	// allows. The flows of a family that the pod lacks need not be listed.
	Family hostport.Family
}

// serves reports whether the target can match flows of the family.
func (t Target) serves(f hostport.Family) bool {
	return (t.Family == 0 || t.Family == f) && (!t.HostIP.IsValid() || hostport.FamilyOf(t.HostIP) == f)
}

// wildcard reports whether the target is for all addresses of the node.
func (t Target) wildcard() bool { return !t.HostIP.IsValid() || t.HostIP.IsUnspecified() }

// Flush removes the entries of UDP flows to the targets, whatever their zone,
// and returns how many it removed. With no targets it does nothing. It is
// idempotent; an entry that has gone by itself meanwhile is neither counted nor
// an error. On an error some entries may have been removed, and the count says
// how many; what could be removed beside one that could not, has been.
//
// Its cost is one walk of the kernel's table for each port and family, or for
// each family where the ports are many (see maxWalks), and the copying of
// the entries found by it. The walk is in the kernel, which has no index by
// destination.
func Flush(ctx context.Context, targets []Target) (removed int, err error) {
	return flush(ctx, targets, byPort)
}

// flush is Flush with a choice of the kernel's filter.
func flush(ctx context.Context, targets []Target, by filterKind) (removed int, err error) {
	if len(targets) == 0 {
		return 0, nil
	}
	s, err := dial()
	if err != nil {
		return 0, err
	}
	defer s.close()
	var errs []error
	for _, f := range hostport.Families() {
		n, err := s.flush(ctx, targets, f, by)
		removed += n
		if err != nil {
			errs = append(errs, fmt.Errorf("remove stale %s UDP flows: %w", f, err))
		}
	}
	return removed, errors.Join(errs...)
}

// flush is Flush for one family.
func (s socket) flush(ctx context.Context, targets []Target, f hostport.Family, by filterKind) (int, error) {
	w, err := newWanted(targets, f)
	if err != nil || len(w.ports) == 0 {
		return 0, err
	}
	stale, err := s.find(ctx, w, by)
	if err != nil {
		return 0, err
	}
	return s.remove(ctx, stale)
}

// wanted is what is to be removed of one family.
type wanted struct {
	family hostport.Family
	// ports -> host IPs; nil: any of local.
	ports map[uint16][]netip.Addr
	// local are the node's addresses, less those that IsLoopback knows. Not
	// filled if no port is wanted on all of them.
	local map[netip.Addr]struct{}
}

func newWanted(targets []Target, f hostport.Family) (*wanted, error) {
	w := &wanted{family: f, ports: make(map[uint16][]netip.Addr)}
	anywhere := false
	for _, t := range targets {
		if !t.serves(f) {
			continue
		}
		ips, known := w.ports[t.Port]
		switch {
		case t.wildcard():
			w.ports[t.Port] = nil
			anywhere = true
		case !known || ips != nil:
			w.ports[t.Port] = append(ips, t.HostIP.Unmap())
		}
	}
	if !anywhere {
		return w, nil
	}
	nlFamily := unix.AF_INET
	if f == hostport.IPv6 {
		nlFamily = unix.AF_INET6
	}
	addrs, err := netlinksafe.AddrList(nil, nlFamily)
	if err != nil {
		return nil, fmt.Errorf("list addresses of the node: %w", err)
	}
	w.local = make(map[netip.Addr]struct{}, len(addrs))
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			w.local[ip.Unmap()] = struct{}{}
		}
	}
	return w, nil
}

// has reports whether the entry is of a flow to be removed. It is asked about
// every entry, whatever the kernel was told to filter by.
func (w *wanted) has(e entry) bool {
	if e.protocol != hostport.UDP.Number() || hostport.FamilyOf(e.destination) != w.family {
		return false
	}
	ips, ok := w.ports[e.port]
	if !ok || ips != nil {
		return slices.Contains(ips, e.destination)
	}
	_, ok = w.local[e.destination]
	return ok || e.destination.IsLoopback()
}
