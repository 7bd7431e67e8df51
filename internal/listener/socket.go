package listener

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// socket is a listening socket of the node.
type socket struct {
	address netip.AddrPort
	// takes is the mapping for the same packets. Its host IP is the zero Addr for
	// an IPv6 wildcard that accepts IPv4 as well.
	takes hostport.Mapping
	inode uint32
}

// From linux/inet_diag.h and linux/sock_diag.h.
const (
	messageLen = 72 // struct inet_diag_msg
	attrV6Only = 11 // INET_DIAG_SKV6ONLY, a byte
)

// request returns a struct inet_diag_req_v2: family, protocol, extensions, padding,
// states, and a socket ID that matches any.
func request(p hostport.Protocol, family uint8) []byte {
	r := make([]byte, 56)
	r[0], r[1] = family, p.Number()
	// A UDP socket that is bound but not connected is in state CLOSE.
	state := unix.BPF_TCP_CLOSE
	if p == hostport.TCP {
		state = unix.BPF_TCP_LISTEN
	}
	binary.NativeEndian.PutUint32(r[4:], 1<<state)
	return r
}

// dump lists the listening sockets of one protocol and family. The kernel
// filters by state, so that the node's connections cost nothing.
func dump(p hostport.Protocol, family uint8) (out []socket, err error) {
	for range 5 { // sockets may be opened and closed meanwhile
		out = nil
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddRawData(request(p, family))
		err = req.ExecuteIter(unix.NETLINK_INET_DIAG, 0, func(msg []byte) bool {
			if len(msg) >= messageLen {
				out = append(out, parse(p, msg))
			}
			return true
		})
		if !errors.Is(err, nl.ErrDumpInterrupted) { // otherwise the list may have gaps
			break
		}
	}
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT) && family == unix.AF_INET6:
		return nil, nil // a kernel booted without IPv6
	case errors.Is(err, unix.ENOENT):
		err = fmt.Errorf("the kernel has no sock_diag for them (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG): %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("list %s sockets: %w", p, err)
	}
	return out, nil
}

// parse reads a struct inet_diag_msg and the attributes after it.
func parse(p hostport.Protocol, msg []byte) socket {
	port := binary.BigEndian.Uint16(msg[4:])
	addr, dual := netip.AddrFrom4([4]byte(msg[8:])), false
	if msg[0] == unix.AF_INET6 {
		addr = netip.AddrFrom16([16]byte(msg[8:]))
		// Before Linux 4.2 the attribute is missing: then assume that the socket
		// accepts both families, which is the default.
		v6only := nfnetlink.Attributes(msg[messageLen:]).Get(attrV6Only)
		dual = addr.IsUnspecified() && (len(v6only) == 0 || v6only[0] == 0)
	}
	s := socket{
		address: netip.AddrPortFrom(addr.Unmap(), port),
		takes:   hostport.Mapping{Protocol: p, HostPort: port},
		inode:   binary.NativeEndian.Uint32(msg[68:]),
	}
	if !dual {
		s.takes.HostIP = s.address.Addr()
	}
	return s
}
