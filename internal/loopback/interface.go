package loopback

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Interface returns the name of the node's interface to the pod, from the
// kernel's route lookup in the calling thread's network namespace. It fails if
// the address is not IPv4, there is no route, or the route does not leave the
// node: the address is the node's own, or is rejected.
func Interface(pod netip.Addr) (string, error) {
	pod = pod.Unmap()
	if !pod.Is4() {
		return "", fmt.Errorf("look up route to pod %s: 127.0.0.1 can only lead to an IPv4 address", pod)
	}
	routes, err := netlink.RouteGet(pod.AsSlice())
	if err != nil {
		return "", fmt.Errorf("look up route to pod %s: %w", pod, err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", fmt.Errorf("look up interface %d on the route to pod %s: %w", routes[0].LinkIndex, pod, err)
	}
	if link.Attrs().Flags&net.FlagLoopback != 0 {
		return "", fmt.Errorf("look up route to pod %s: it is an address of the node's own", pod)
	}
	return link.Attrs().Name, nil
}
