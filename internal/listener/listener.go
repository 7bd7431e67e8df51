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
	wanted := index(mappings)
	var sockets []socket
	for _, p := range []hostport.Protocol{hostport.TCP, hostport.UDP} {
		if !slices.ContainsFunc(mappings, func(m hostport.Mapping) bool { return m.Protocol == p }) {
			continue
		}
		// A mapping of IPv4 needs the IPv6 sockets too: they take both.
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			found, err := dump(p, family, wanted)
			if err != nil {
				return nil, err
			}
			sockets = append(sockets, found...)
		}
	}
	if len(sockets) == 0 {
		return nil, nil
	}
	holders, err := holders(ctx, sockets)
	if err != nil {
		return nil, err
	}
	var out []Listener
	for _, s := range sockets {
		for _, m := range wanted.overlapping(s) {
			h := holders[s.inode]
			out = append(out, Listener{Mapping: m, Address: s.address, PID: h.pid, Command: h.command})
		}
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

// endpoint is a transport protocol and port.
type endpoint struct {
	protocol hostport.Protocol
	port     uint16
}

// demand is the mappings by the endpoint they want.
type demand map[endpoint][]hostport.Mapping

func index(mappings []hostport.Mapping) demand {
	d := make(demand, len(mappings))
	for _, m := range mappings {
		e := endpoint{m.Protocol, m.HostPort}
		d[e] = append(d[e], m)
	}
	return d
}

// overlapping are the mappings that would take packets from the socket.
func (d demand) overlapping(s socket) []hostport.Mapping {
	claim := hostport.Mapping{Protocol: s.protocol, HostPort: s.address.Port()}
	if !s.dual {
		claim.HostIP = s.address.Addr()
	}
	var out []hostport.Mapping
	for _, m := range d[endpoint{claim.Protocol, claim.HostPort}] {
		if m.Overlaps(claim) {
			out = append(out, m)
		}
	}
	return out
}
