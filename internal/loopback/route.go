package loopback

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
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
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", fmt.Errorf("look up interface %d on the route to pod %s: %w", routes[0].LinkIndex, pod, err)
	}
	attrs := link.Attrs()
	if attrs.Flags&net.FlagLoopback != 0 {
		return "", fmt.Errorf("look up route to pod %s: it is an address of the node's own", pod)
	}
	return attrs.Name, nil
}
