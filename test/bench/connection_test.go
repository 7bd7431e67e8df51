//go:build bench

package bench

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/world"
)

// servedPort is where servers listen, in pods and on the node.
const servedPort = 80

// serve answers tcp by closing, and takes udp without an answer, until the test
// ends.
func serve(t *testing.T, n *world.Netns) {
	t.Helper()
	var l net.Listener
	var u *net.UDPConn
	n.Do(func() (err error) {
		if l, err = net.Listen("tcp4", fmt.Sprintf(":%d", servedPort)); err != nil {
			return err
		}
		u, err = net.ListenUDP("udp4", &net.UDPAddr{Port: servedPort})
		return err
	})
	t.Cleanup(func() { _, _ = l.Close(), u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
}

// rate opens connections one after the other with plain system calls, for a
// time, and returns how many a second. UDP counts datagrams, each from a socket
// of its own. Nobody waits for an answer to them: the kernel carries a datagram
// all the way to its receiver before the call returns, while waking somebody up
// would take longer than what is to be measured.
func rate(t *testing.T, from *world.Netns, protocol string, to netip.AddrPort, d time.Duration) float64 {
	t.Helper()
	kind := unix.SOCK_STREAM
	if protocol == "udp" {
		kind = unix.SOCK_DGRAM
	}
	sa := address(to)
	count := 0
	var took time.Duration
	from.Do(func() error {
		start := time.Now()
		for took < d {
			for range 16 {
				if err := once(kind, sa); err != nil {
					return fmt.Errorf("%s connection %d to %s: %w", protocol, count, to, err)
				}
				count++
			}
			took = time.Since(start)
		}
		return nil
	})
	return float64(count) / took.Seconds()
}

func address(to netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
}

// dial opens a socket of plain system calls and connects it.
func dial(kind int, to unix.Sockaddr) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		err = errors.Join(err, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &unix.Timeval{Sec: 5}))
	}
	if kind == unix.SOCK_STREAM {
		// Reset instead of TIME_WAIT, which would use up the source ports.
		err = errors.Join(err, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	}
	if err == nil {
		err = again(func() error { return unix.Connect(fd, to) })
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func once(kind int, to unix.Sockaddr) error {
	fd, err := dial(kind, to)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if kind == unix.SOCK_STREAM {
		return nil
	}
	_, err = unix.Write(fd, []byte("?"))
	return err
}

// again repeats a call that a signal of the Go runtime interrupted.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
