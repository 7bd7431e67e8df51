// Package loopback lets 127.0.0.1:hostPort on the node reach a pod: it sets and
// clears route_localnet on the node's interface to the pod.
//
// The kernel routes packets from or to 127.0.0.0/8 only over lo, unless
// net.ipv4.conf.IFNAME.route_localnet is set (Linux 3.6). That setting also lets the
// neighbours on that interface reach services on the node's 127.0.0.1 (CVE-2020-8558):
// the backend's guard must be in place before. The kernel has no such setting for [::1].
package loopback

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/plugins/pkg/utils/sysctl"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interface returns the name of the node's interface to the pod, from the kernel's route
// lookup in the calling thread's network namespace. It fails if there is no route, or it
// does not leave the node: the address is the node's own, or is rejected.
func Interface(pod netip.Addr) (string, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE) // both on one socket
	if err != nil {
		return "", fmt.Errorf("look up route to pod %s: %w", pod, err)
	}
	defer h.Close()
	routes, err := h.RouteGet(pod.AsSlice())
	if err != nil {
		return "", fmt.Errorf("look up route to pod %s: %w", pod, err)
	}
	link, err := h.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", fmt.Errorf("look up interface %d on the route to pod %s: %w", routes[0].LinkIndex, pod, err)
	}
	if link.Attrs().Flags&net.FlagLoopback != 0 {
		return "", fmt.Errorf("look up route to pod %s: it is an address of the node's own", pod)
	}
	return link.Attrs().Name, nil
}

// Open sets route_localnet to 1 in the calling thread's network namespace. It is
// idempotent. The error for an interface that does not exist wraps fs.ErrNotExist.
func Open(ifname string) error { return set(ifname, "1") }

// Close sets route_localnet to 0. It is idempotent. An interface that is gone is no error.
func Close(ifname string) error {
	if err := set(ifname, "0"); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Check returns an error if route_localnet is 0 or cannot be read.
func Check(ifname string) error {
	value, err := access(ifname)
	if err == nil && value == "0" {
		err = fmt.Errorf("net.ipv4.conf.%s.route_localnet is 0, want 1: 127.0.0.1 does not reach the pod", ifname)
	}
	return err
}

func set(ifname, value string) error {
	before, err := access(ifname)
	if err != nil || before == value {
		return err
	}
	if _, err = access(ifname, value); err != nil {
		// For an interface that was deleted meanwhile, this is EACCES, because procfs
		// is asked to create a file. A read tells the difference.
		if _, gone := access(ifname); errors.Is(gone, fs.ErrNotExist) {
			err = gone
		}
	}
	return err
}

// access reads the setting, or writes it. It refuses names that are invalid for the
// kernel (dev_valid_name), because they would lead to another file, and the two names in
// that directory that are not interfaces, because they would open 127.0.0.0/8 on all.
func access(ifname string, value ...string) (string, error) {
	const maxName = 15 // IFNAMSIZ less the terminating NUL
	if len(ifname) > maxName || slices.Contains([]string{"", ".", "..", "all", "default"}, ifname) || strings.ContainsAny(ifname, "/:\x00 \t\n\v\f\r") {
		return "", fmt.Errorf("refuse %q: not the name of an interface", ifname)
	}
	is, err := sysctl.Sysctl("net/ipv4/conf/"+ifname+"/route_localnet", value...) // with slashes: eth0.100 has a dot
	if err != nil {
		return "", fmt.Errorf("route_localnet of interface %s: %w", ifname, err)
	}
	return is, nil
}
