package loopback

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
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
	routes, err := netlink.RouteGet(net.IP(pod.AsSlice()))
	if err != nil {
		return "", fmt.Errorf("look up route to pod %s: %w", pod, err)
	}
	if len(routes) == 0 || routes[0].LinkIndex == 0 {
		return "", fmt.Errorf("look up route to pod %s: the kernel names no interface", pod)
	}
	name, loopback, err := identify(routes[0].LinkIndex)
	if err != nil {
		return "", fmt.Errorf("look up interface %d on the route to pod %s: %w", routes[0].LinkIndex, pod, err)
	}
	if loopback {
		return "", fmt.Errorf("look up route to pod %s: it is an address of the node's own", pod)
	}
	return name, nil
}

// identify tells an interface's name, and whether it is a loopback. It asks by
// ioctl: the whole description of the interface, which netlink would send, is
// dear to decode (a tenth of an ADD on nftables).
func identify(index int) (name string, loopback bool, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", false, fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	request, err := unix.NewIfreq("")
	if err != nil {
		return "", false, err
	}
	request.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, request); err != nil {
		return "", false, fmt.Errorf("ask for its name: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
		return "", false, fmt.Errorf("ask for its flags: %w", err)
	}
	return request.Name(), request.Uint16()&unix.IFF_LOOPBACK != 0, nil
}
