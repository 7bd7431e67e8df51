// Package listener finds sockets of the node's own processes that listen on the
// host port of a mapping, which silently takes their traffic.
//
// It covers TCP and UDP in the calling thread's network namespace. For SCTP, sock_diag
// returns associations in a different format, from a module that is seldom loaded, so an
// SCTP mapping never has a listener here.
package listener

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Listener is a socket of the node that listens on a mapping's host port.
type Listener struct {
	// Mapping is the mapping that would take the socket's traffic.
	Mapping hostport.Mapping
	// Address is what the socket is bound to. A socket that accepts both families
	// is bound to ::.
	Address netip.AddrPort
	// PID is the first of the processes that hold the socket, or 0 if /proc does
	// not show one: the socket is the kernel's own, or its process is in another
	// PID namespace.
	PID int
	// Command is the process's name as the kernel knows it, at most 15 bytes.
	Command string
}

// String returns the socket and the process as text.
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

// process is a process with an open socket, by its ID and name.
type process struct {
	pid     int
	command string
}

// holders reads proc, which is /proc, and returns the process that has each
// socket open, among the processes whose file descriptors the caller may read:
// the lowest process ID if there are several, so that a master comes before its
// workers. The key is the kernel's name of the socket, "socket:[INODE]".
// Processes that cannot be read are omitted: the socket is reported all the
// same. So are processes that have exited meanwhile, such as a child of the
// listener that has not yet executed another program.
func holders(proc string) map[string]process {
	out, commands := map[string]process{}, map[int]string{}
	fds, _ := filepath.Glob(filepath.Join(proc, "[0-9]*/fd/*"))
	for _, fd := range fds {
		dir := filepath.Dir(filepath.Dir(fd))
		pid, _ := strconv.Atoi(filepath.Base(dir))
		link, _ := os.Readlink(fd)
		if other, known := out[link]; !strings.HasPrefix(link, "socket:") || known && other.pid < pid {
			continue
		}
		command, read := commands[pid]
		if !read {
			comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
			command = strings.TrimSuffix(string(comm), "\n")
			commands[pid] = command
		}
		if command != "" {
			out[link] = process{pid, command}
		}
	}
	return out
}
