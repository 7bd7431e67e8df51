// Package listener finds sockets of the node's own processes that listen on the
// host port of a mapping, which silently takes their traffic.
//
// It covers TCP and UDP in the calling thread's network namespace. For SCTP, sock_diag
// returns associations in a different format, from a module that is seldom loaded, so an
// SCTP mapping never has a listener here.
package listener

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Listener is a socket of the node that listens on a mapping's host port.
type Listener struct {
	// Mapping is the mapping that would take the socket's traffic.
	Mapping hostport.Mapping
	// Address is what the socket is bound to. A socket that accepts both families
	// is bound to ::.
	Address netip.AddrPort
	// PID is the first of the processes that hold the socket, or 0 if /proc does not
	// show one: the socket is the kernel's own, or held in another PID namespace.
	PID int
	// Command is the process's name as the kernel knows it, at most 15 bytes.
	Command string
}

func (l Listener) String() string {
	s := fmt.Sprintf("%s/%s is listened on by ", l.Address, l.Mapping.Protocol)
	if l.PID == 0 {
		return s + "an unknown process"
	}
	return s + fmt.Sprintf("process %d (%q)", l.PID, l.Command)
}

// Find lists the sockets that listen on a mapping's protocol, host port and
// host IP: TCP sockets that listen, and UDP sockets that are bound and not
// connected. It queries the kernel (sock_diag(7)) once for each protocol and
// family among the mappings, and reads /proc once if there is a listener. The
// list has the order of the mappings, and for each mapping is ordered by address.
func Find(mappings []hostport.Mapping) (out []Listener, err error) {
	var sockets []socket
	for _, p := range []hostport.Protocol{hostport.TCP, hostport.UDP} {
		if !slices.ContainsFunc(mappings, func(m hostport.Mapping) bool { return m.Protocol == p }) {
			continue
		}
		// An IPv4 mapping needs the IPv6 sockets too: they may accept both.
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			all, err := dump(p, family)
			if err != nil {
				return nil, err
			}
			sockets = append(sockets, all...)
		}
	}
	processes := sync.OnceValue(func() map[string]process { return holders("/proc") })
	slices.SortFunc(sockets, func(x, y socket) int { return x.address.Compare(y.address) })
	for _, m := range mappings {
		for _, s := range sockets {
			// Report the sockets of a SO_REUSEPORT group as one listener.
			if !m.Overlaps(s.takes) || slices.ContainsFunc(out, func(l Listener) bool { return l.Mapping == m && l.Address == s.address }) {
				continue
			}
			by := processes()[fmt.Sprintf("socket:[%d]", s.inode)]
			out = append(out, Listener{Mapping: m, Address: s.address, PID: by.pid, Command: by.command})
		}
	}
	return out, nil
}

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

// dump lists the listening sockets of one protocol and family. The kernel
// filters by state, so that the node's connections cost nothing.
func dump(p hostport.Protocol, family uint8) (out []socket, err error) {
	state := unix.BPF_TCP_CLOSE // of a UDP socket that is bound and not connected
	if p == hostport.TCP {
		state = unix.BPF_TCP_LISTEN
	}
	request := make([]byte, 56) // struct inet_diag_req_v2, whose socket ID of zeros matches any
	request[0], request[1] = family, p.Number()
	binary.NativeEndian.PutUint32(request[4:], 1<<state)
	for range 5 { // sockets may be opened and closed meanwhile
		out = nil
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddRawData(request)
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

// process is a process with an open socket, by its ID and name.
type process struct {
	pid     int
	command string
}

// holders reads proc, which is /proc, and returns the process that has each socket
// open, by the kernel's name of the socket, "socket:[INODE]": the lowest process ID if
// there are several, so that a master comes before its workers. Processes that the
// caller may not read are omitted, and those that have exited meanwhile, such as a child
// of the listener that has not yet executed another program.
func holders(proc string) map[string]process {
	out := make(map[string]process)
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		var sockets []string
		fds, _ := filepath.Glob(filepath.Join(dir, "fd/*"))
		for _, fd := range fds {
			link, _ := os.Readlink(fd)
			if other, known := out[link]; strings.HasPrefix(link, "socket:") && (!known || pid < other.pid) {
				sockets = append(sockets, link)
			}
		}
		if len(sockets) == 0 {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		if command := strings.TrimSuffix(string(comm), "\n"); command != "" {
			for _, link := range sockets {
				out[link] = process{pid, command}
			}
		}
	}
	return out
}
