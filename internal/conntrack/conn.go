package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// conn is a netlink socket to the kernel's netfilter subsystems.
//
// It is a bare one. The libraries' sockets hand out every message in memory of
// its own, which is what costs where half a million of them are looked at and
// three are kept: this one reads them all in one buffer.
type conn struct {
	fd     int
	port   uint32 // ours, by which the kernel's answers are addressed
	seq    uint32
	buffer []byte
}

// bufferLen is above what the kernel puts into one datagram of a dump: 32 KiB
// since Linux 4.5, if the reader has shown a buffer that takes it.
const bufferLen = 64 << 10

// message is one of the kernel's answers. Its data is valid until the next.
type message struct {
	kind  uint16
	flags uint16
	seq   uint32
	data  []byte
}

func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, fmt.Errorf("open netfilter socket: the kernel has no netfilter over netlink (CONFIG_NETFILTER_NETLINK): %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	c := &conn{fd: fd, buffer: make([]byte, bufferLen)}
	if err := c.setUp(); err != nil {
		c.close()
		return nil, fmt.Errorf("set up netfilter socket: %w", err)
	}
	return c, nil
}

func (c *conn) setUp() error {
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	own, err := unix.Getsockname(c.fd)
	if err != nil {
		return err
	}
	address, ok := own.(*unix.SockaddrNetlink)
	if !ok {
		return fmt.Errorf("own address is a %T", own)
	}
	c.port = address.Pid
	// The kernel answers while it is asked, or not at all: a read that waits
	// would wait for ever.
	return unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
}

func (c *conn) close() { _ = unix.Close(c.fd) }

// send numbers the messages in b one by one and sends them at once. It returns
// the number of the first.
func (c *conn) send(b []byte) (first uint32, err error) {
	first = c.seq + 1
	for rest := b; len(rest) > 0; rest = rest[binary.NativeEndian.Uint32(rest):] {
		c.seq++
		binary.NativeEndian.PutUint32(rest[8:], c.seq)
	}
	for {
		err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return first, err
		}
	}
}

// receive reads one datagram and calls f with each message in it that answers
// us.
func (c *conn) receive(f func(message) error) error {
	var n int
	for {
		var from unix.Sockaddr
		var err error
		n, from, err = unix.Recvfrom(c.fd, c.buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		// Any process may send to a netlink socket: only port 0 is the kernel.
		if sender, ok := from.(*unix.SockaddrNetlink); ok && sender.Pid == 0 {
			break
		}
	}
	for b := c.buffer[:n]; len(b) > 0; {
		if len(b) < unix.SizeofNlMsghdr {
			return errMalformed
		}
		size := binary.NativeEndian.Uint32(b)
		if size < unix.SizeofNlMsghdr || uint64(size) > uint64(len(b)) {
			return errMalformed
		}
		m := message{
			kind:  binary.NativeEndian.Uint16(b[4:]),
			flags: binary.NativeEndian.Uint16(b[6:]),
			seq:   binary.NativeEndian.Uint32(b[8:]),
			data:  b[unix.SizeofNlMsghdr:size],
		}
		if binary.NativeEndian.Uint32(b[12:]) == c.port {
			if err := f(m); err != nil {
				return err
			}
		}
		b = b[min(align(int(size)), len(b)):]
	}
	return nil
}

// dump sends one request and calls f with the data of each message of the
// answer. The error is the kernel's own, EINTR among them when the table was
// rebuilt under the dump, or f's, or the context's; after these two the socket
// holds the rest of the answer and is of no more use.
func (c *conn) dump(ctx context.Context, request []byte, f func(data []byte) error) error {
	seq, err := c.send(request)
	if err != nil {
		return err
	}
	done, interrupted := false, false
	for !done {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := c.receive(func(m message) error {
			if m.seq != seq || done {
				return nil
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.kind {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				done = true
				return errno(m)
			case messageNew:
				return f(m.data)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if interrupted {
		return unix.EINTR
	}
	return nil
}

// errno is the error in a message that ends a dump or acknowledges a request.
func errno(m message) error {
	if len(m.data) < 4 {
		return nil // a bare NLMSG_DONE
	}
	if n := int32(binary.NativeEndian.Uint32(m.data)); n < 0 {
		return unix.Errno(-n)
	}
	return nil
}
