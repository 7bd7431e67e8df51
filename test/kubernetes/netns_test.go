package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netns is a network namespace without a name or a mount: it lives as long as
// this file is open or a process or socket is inside.
type netns struct {
	file *os.File
}

func newNetns() (*netns, error) {
	var file *os.File
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (root is needed): %w", err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, err
	}
	return &netns{file: file}, nil
}

func (n *netns) close() { _ = n.file.Close() }

// do runs f on a thread that is inside the namespace.
func (n *netns) do(f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// dial connects from inside the namespace. The address must be numeric: looking
// up a name could move to another thread, and so to another namespace.
func (n *netns) dial(ctx context.Context, network, address string, from net.Addr) (net.Conn, error) {
	var conn net.Conn
	err := n.do(func() error {
		var err error
		conn, err = (&net.Dialer{LocalAddr: from}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// connect puts a veth pair between two namespaces.
func connect(a *netns, aName string, b *netns, bName string) error {
	err := a.do(func() error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = aName
		veth := &netlink.Veth{
			LinkAttrs:     attributes,
			PeerName:      bName,
			PeerNamespace: netlink.NsFd(b.file.Fd()),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth %s: %w", aName, err)
		}
		return setUp(aName)
	})
	if err != nil {
		return err
	}
	return b.do(func() error { return setUp(bName) })
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

// address gives a link an address that can be used at once: nobody else has it.
func (n *netns) address(name string, prefix netip.Prefix) error {
	return n.do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		address := &netlink.Addr{IPNet: &net.IPNet{
			IP:   prefix.Addr().AsSlice(),
			Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
		}}
		if prefix.Addr().Is6() {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, address); err != nil {
			return fmt.Errorf("add %s to %s: %w", prefix, name, err)
		}
		return nil
	})
}

// removeLink is content when there is no such link.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	return netlink.LinkDel(link)
}

// routeDefault sends what has no better route to the gateway.
func (n *netns) routeDefault(gateway netip.Addr) error {
	return n.do(func() error {
		return netlink.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()})
	})
}

// onOwnThread runs f on a thread that ends with it, so that the namespaces f
// moves to stay no other goroutine's.
func onOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		done <- f()
	}()
	return <-done
}
