package loopback

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Via names the node's interface over which it reaches the pod, by the kernel's
// own route lookup in the calling thread's network namespace. It is an error if
// the address is not IPv4, there is no route, or the route stays on the node: an
// address of the node's own, or one that is refused.
func Via(pod netip.Addr) (string, error) {
	pod = pod.Unmap()
	if !pod.Is4() {
		return "", fmt.Errorf("look up route to pod %s: 127.0.0.1 can only lead to an IPv4 address", pod)
	}
	index, err := route(pod)
	if err != nil {
		return "", fmt.Errorf("look up route to pod %s: %w", pod, err)
	}
	name, loopback, err := identify(index)
	if err != nil {
		return "", fmt.Errorf("look up interface %d on the route to pod %s: %w", index, pod, err)
	}
	if loopback {
		return "", fmt.Errorf("look up route to pod %s: it is an address of the node's own", pod)
	}
	return name, nil
}

// route asks the kernel which interface a packet to an IPv4 address would leave
// by. It is one message each way (rtnetlink(7)), without a library: theirs makes
// room for 64 KiB of answer, and touching that alone is a hundredth of an ADD.
func route(to netip.Addr) (index uint32, err error) {
	const size = unix.SizeofNlMsghdr + unix.SizeofRtMsg + unix.SizeofRtAttr + 4
	request := make([]byte, size)
	order := binary.NativeEndian
	order.PutUint32(request, size)
	order.PutUint16(request[4:], unix.RTM_GETROUTE)
	order.PutUint16(request[6:], unix.NLM_F_REQUEST)
	message := request[unix.SizeofNlMsghdr:]
	message[0], message[1] = unix.AF_INET, 32 // family, prefix length of the destination
	destination := message[unix.SizeofRtMsg:]
	order.PutUint16(destination, unix.SizeofRtAttr+4)
	order.PutUint16(destination[2:], unix.RTA_DST)
	copy(destination[unix.SizeofRtAttr:], to.AsSlice())

	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	// The kernel answers before this returns, or not at all.
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("ask: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, unix.MSG_DONTWAIT)
	if err != nil {
		return 0, fmt.Errorf("read the answer: %w", err)
	}
	return outgoing(answer[:n])
}

var errNoInterface = errors.New("the kernel names no interface")

// outgoing reads the answer to a route lookup.
func outgoing(answer []byte) (index uint32, err error) {
	messages, err := syscall.ParseNetlinkMessage(answer)
	if err != nil {
		return 0, fmt.Errorf("parse the answer: %w", err)
	}
	for _, m := range messages {
		if m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4 {
			return 0, unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
		}
		if m.Header.Type != unix.RTM_NEWROUTE {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return 0, fmt.Errorf("parse the answer: %w", err)
		}
		for _, a := range attributes {
			if a.Attr.Type == unix.RTA_OIF && len(a.Value) == 4 {
				return binary.NativeEndian.Uint32(a.Value), nil
			}
		}
	}
	return 0, errNoInterface
}

// identify tells an interface's name, and whether it is a loopback. It asks by
// ioctl: the whole description of the interface, which netlink would send, is
// dear to decode (a tenth of an ADD on nftables).
func identify(index uint32) (name string, loopback bool, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", false, fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	request, err := unix.NewIfreq("")
	if err != nil {
		return "", false, err
	}
	request.SetUint32(index)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, request); err != nil {
		return "", false, fmt.Errorf("ask for its name: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
		return "", false, fmt.Errorf("ask for its flags: %w", err)
	}
	return request.Name(), request.Uint16()&unix.IFF_LOOPBACK != 0, nil
}
