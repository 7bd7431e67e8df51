package listener

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// socket is a socket of the node that listens.
type socket struct {
	protocol hostport.Protocol
	address  netip.AddrPort
	// dual is an IPv6 wildcard socket that takes IPv4 as well.
	dual  bool
	inode uint32
}

// Of linux/inet_diag.h and linux/sock_diag.h.
const (
	requestLen  = 56 // struct inet_diag_req_v2
	messageLen  = 72 // struct inet_diag_msg
	attrV6Only  = 11 // INET_DIAG_SKV6ONLY, a byte
	noCookie    = 0xffffffff
	offFamily   = 0
	offPort     = 4  // source port, big endian
	offAddress  = 8  // source address, 16 bytes
	offInode    = 68 // native endian
	maxAttempts = 5
)

// request is a struct inet_diag_req_v2: family, protocol, extensions, padding,
// states, and a socket ID that matches any.
type request [requestLen]byte

func newRequest(p hostport.Protocol, family uint8) *request {
	var r request
	r[0], r[1] = family, p.Number()
	// A UDP socket that is bound and not connected is in state CLOSE.
	state := unix.BPF_TCP_CLOSE
	if p == hostport.TCP {
		state = unix.BPF_TCP_LISTEN
	}
	binary.NativeEndian.PutUint32(r[4:], 1<<state)
	binary.NativeEndian.PutUint32(r[48:], noCookie)
	binary.NativeEndian.PutUint32(r[52:], noCookie)
	return &r
}

func (r *request) Len() int          { return len(r) }
func (r *request) Serialize() []byte { return r[:] }

// dump lists the wanted sockets of one protocol and family. The kernel sorts out
// the states, so that the node's connections cost nothing.
func dump(p hostport.Protocol, family uint8, wanted demand) ([]socket, error) {
	for range maxAttempts {
		var out []socket
		var bad error
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddData(newRequest(p, family))
		err := req.ExecuteIter(unix.NETLINK_INET_DIAG, 0, func(msg []byte) bool {
			var s socket
			if s, bad = parse(p, msg); bad != nil {
				return false
			}
			if len(wanted.overlapping(s)) > 0 {
				out = append(out, s)
			}
			return true
		})
		switch {
		case errors.Is(err, nl.ErrDumpInterrupted):
			continue // another socket came or went meanwhile: the list may have gaps
		case errors.Is(err, unix.EAFNOSUPPORT) && family == unix.AF_INET6:
			return nil, nil // a kernel booted without IPv6
		case errors.Is(err, unix.ENOENT):
			return nil, fmt.Errorf("list %s sockets: the kernel has no sock_diag for them (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG): %w", p, err)
		case err != nil:
			return nil, fmt.Errorf("list %s sockets: %w", p, err)
		case bad != nil:
			return nil, fmt.Errorf("list %s sockets: %w", p, bad)
		}
		return out, nil
	}
	return nil, fmt.Errorf("list %s sockets: interrupted %d times: %w", p, maxAttempts, unix.EINTR)
}

// parse reads a struct inet_diag_msg and the attributes after it.
func parse(p hostport.Protocol, msg []byte) (socket, error) {
	if len(msg) < messageLen {
		return socket{}, fmt.Errorf("read socket: message of %d bytes, want %d or more", len(msg), messageLen)
	}
	s := socket{protocol: p, inode: binary.NativeEndian.Uint32(msg[offInode:])}
	port := binary.BigEndian.Uint16(msg[offPort:])
	switch msg[offFamily] {
	case unix.AF_INET:
		s.address = netip.AddrPortFrom(netip.AddrFrom4([4]byte(msg[offAddress:])), port)
	case unix.AF_INET6:
		addr := netip.AddrFrom16([16]byte(msg[offAddress:]))
		// Before Linux 4.2 the attribute is missing: then take the socket for
		// one that takes both, which is what sockets do unless told not to.
		only, err := v6only(msg[messageLen:])
		if err != nil {
			return socket{}, err
		}
		s.dual = addr.IsUnspecified() && !only
		s.address = netip.AddrPortFrom(addr.Unmap(), port)
	default:
		return socket{}, fmt.Errorf("read socket: unknown address family %d", msg[offFamily])
	}
	return s, nil
}

// v6only finds the attribute that tells of the socket option IPV6_V6ONLY.
func v6only(attrs []byte) (bool, error) {
	for len(attrs) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < unix.SizeofRtAttr || size > len(attrs) {
			return false, fmt.Errorf("read socket: attribute of %d bytes in %d", size, len(attrs))
		}
		if binary.NativeEndian.Uint16(attrs[2:]) == attrV6Only {
			return size > unix.SizeofRtAttr && attrs[unix.SizeofRtAttr] != 0, nil
		}
		attrs = attrs[min((size+3)&^3, len(attrs)):]
	}
	return false, nil
}
