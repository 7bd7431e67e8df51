//go:build kernels

package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/world"
)

// Options of SCTP sockets, of linux/sctp.h.
const (
	sctpBindAdd       = 100
	sctpAnswerTimeout = 30 * time.Second
)

// signal is a pod that answers each message of an SCTP association with its own
// name.
func (e *env) signal() *world.Attachment {
	e.Helper()
	a := e.add("signal", world.Mapping{HostPort: 3868, ContainerPort: 3869, Protocol: "sctp"})
	fd := e.sctp(a.Pod.Netns)
	e.must(unix.Bind(fd, sockaddr(netip.AddrPortFrom(e.f.Any(), 3869))), "bind")
	e.must(unix.Listen(fd, 8), "listen")
	go func() {
		for {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				return
			}
			go func() {
				buf := make([]byte, 100)
				for {
					n, err := unix.Read(conn, buf)
					if err != nil || n == 0 {
						_ = unix.Close(conn)
						return
					}
					_, _ = unix.Write(conn, fmt.Appendf(nil, "signal %s", buf[:n]))
				}
			}()
		}
	}()
	return a
}

// sctp makes a socket that ends with the test.
func (e *env) sctp(n *world.Netns) int {
	e.Helper()
	domain := unix.AF_INET
	if e.f == world.V6 {
		domain = unix.AF_INET6
	}
	fd := -1
	n.Do(func() (err error) {
		fd, err = unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
		return err
	})
	e.Cleanup(func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
		_ = unix.Close(fd)
	})
	timeout := unix.NsecToTimeval(int64(sctpAnswerTimeout))
	e.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout), "set timeout")
	return fd
}

// associate connects to the node's port. If the Go runtime interrupts the thread in
// connect(2), the kernel starts the call again, which then finds the association.
func (e *env) associate(fd int) error {
	err := unix.Connect(fd, sockaddr(e.node(3868)))
	if errors.Is(err, unix.EISCONN) {
		return nil
	}
	return err
}

// says sends a message over an association and wants the pod's answer.
func (e *env) says(fd int, message string) {
	e.Helper()
	_, err := unix.Write(fd, []byte(message))
	e.must(err, "send")
	buf := make([]byte, 100)
	n, err := unix.Read(fd, buf)
	if want := "signal " + message; err != nil || string(buf[:max(n, 0)]) != want {
		e.Errorf("answer to %q: %q, %v", message, buf[:max(n, 0)], err)
	}
}

func (e *env) must(err error, what string) {
	e.Helper()
	if err != nil {
		e.Fatal(os.NewSyscallError(what, err))
	}
}

// sctpAssociation sends messages over an association to the node's port.
func sctpAssociation(e *env) {
	a := e.signal()
	for _, from := range []*world.Netns{e.w.Client, e.w.Node, a.Pod.Netns} {
		fd := e.sctp(from)
		if err := e.associate(fd); err != nil {
			e.Errorf("%s connects: %v", from.Name, err)
			continue
		}
		e.says(fd, "from "+from.Name)
	}
}

// sctpMultihomed has a client with two addresses, which it tells the pod. No more
// than the beginning is promised: the kernel does not translate what the pod sends
// to the second address, and the client aborts the association if it gets that.
func sctpMultihomed(e *env) {
	e.signal()
	first, second := e.f.Client(), e.f.Client().Next()
	bits := "/24"
	if e.f == world.V6 {
		bits = "/64"
	}
	e.w.Client.AddAddress("eth0", second.String()+bits)
	fd := e.sctp(e.w.Client)
	e.must(unix.Bind(fd, sockaddr(netip.AddrPortFrom(first, 40000))), "bind")
	e.must(unix.SetsockoptString(fd, unix.IPPROTO_SCTP, sctpBindAdd, rawSockaddr(netip.AddrPortFrom(second, 40000))), "bind the second address")
	e.must(e.associate(fd), "connect")
	e.says(fd, "from two addresses")
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// rawSockaddr is a struct sockaddr_in or sockaddr_in6.
func rawSockaddr(a netip.AddrPort) string {
	var b []byte
	family := uint16(unix.AF_INET)
	if a.Addr().Is6() {
		family = unix.AF_INET6
	}
	b = binary.NativeEndian.AppendUint16(b, family)
	b = binary.BigEndian.AppendUint16(b, a.Port())
	if a.Addr().Is6() {
		b = append(b, 0, 0, 0, 0)
		b = append(b, a.Addr().AsSlice()...)
		return string(append(b, 0, 0, 0, 0))
	}
	b = append(b, a.Addr().AsSlice()...)
	return string(append(b, make([]byte, 8)...))
}
