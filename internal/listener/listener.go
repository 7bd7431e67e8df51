package listener

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Listener is a socket of the node that listens where a mapping leads.
type Listener struct {
	// Mapping is the mapping that would take the socket's traffic.
	Mapping hostport.Mapping
	// Address is what the socket is bound to. A socket that takes IPv4 as well
	// as IPv6 is bound to ::.
	Address netip.AddrPort
	// PID is a process that holds the socket, or 0 where /proc does not tell:
	// it is the kernel's own, or its process is in another PID namespace.
	PID int
	// Command is the process's name as the kernel knows it, at most 15 bytes.
	Command string
}

// String names socket and process for people.
func (l Listener) String() string {
	s := fmt.Sprintf("%s/%s is listened on by ", l.Address, l.Mapping.Protocol)
	if l.PID == 0 {
		return s + "an unknown process"
	}
	return s + fmt.Sprintf("process %d (%q)", l.PID, l.Command)
}

// Find lists the sockets that listen on a mapping's protocol, host port and
// host IP: TCP sockets that listen, and UDP sockets that are bound and not
// connected. It asks the kernel (sock_diag(7)) once for each protocol and family
// among the mappings, and reads /proc only if there is something to name. The
// list is ordered by mapping, address and process. SCTP mappings have none.
func Find(ctx context.Context, mappings []hostport.Mapping) ([]Listener, error) {
	var out []Listener
	var sockets []socket // of out, one by one
	for _, p := range []hostport.Protocol{hostport.TCP, hostport.UDP} {
		if !slices.ContainsFunc(mappings, func(m hostport.Mapping) bool { return m.Protocol == p }) {
			continue
		}
		// A mapping of IPv4 needs the IPv6 sockets too: they take both.
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			all, err := dump(p, family)
			if err != nil {
				return nil, err
			}
			for _, s := range all {
				for _, m := range mappings {
					if m.Overlaps(s.takes) {
						out = append(out, Listener{Mapping: m, Address: s.address})
						sockets = append(sockets, s)
					}
				}
			}
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	holders, err := holders(ctx, sockets)
	if err != nil {
		return nil, err
	}
	for i, s := range sockets {
		out[i].PID, out[i].Command = holders[s.inode].pid, holders[s.inode].command
	}
	slices.SortStableFunc(out, func(x, y Listener) int {
		return cmp.Or(
			cmp.Compare(x.Mapping.HostPort, y.Mapping.HostPort),
			cmp.Compare(x.Mapping.Protocol, y.Mapping.Protocol),
			x.Mapping.HostIP.Compare(y.Mapping.HostIP),
			x.Address.Compare(y.Address),
			cmp.Compare(x.PID, y.PID),
		)
	})
	// The sockets of a SO_REUSEPORT group are one listener to people.
	return slices.Compact(out), nil
}
