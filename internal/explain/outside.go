package explain

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// outside is a network namespace connected to the node.
type outside struct {
	ns     ns.NetNS
	iface  string // the node's end
	client netip.Addr
}

// probeAddresses returns the addresses of the two ends. IPv4 is link-local (RFC
// 3927), from the two blocks that are reserved there. Packets from a link-local
// IPv6 address are never forwarded, so IPv6 uses a unique local prefix.
func probeAddresses(f hostport.Family) (node, client netip.Prefix) {
	if f == hostport.IPv4 {
		return netip.MustParsePrefix("169.254.255.1/30"), netip.MustParsePrefix("169.254.255.2/30")
	}
	return netip.MustParsePrefix("fd68:6f73:7470:6f72::1/126"), netip.MustParsePrefix("fd68:6f73:7470:6f72::2/126")
}

// newOutside creates the namespace and the interfaces. No file holds the
// namespace: the kernel removes it, and with it both interfaces, when this
// process exits.
func newOutside(f hostport.Family) (_ *outside, err error) {
	there, err := newNetns()
	if err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	node, client := probeAddresses(f)
	o := &outside{ns: there, iface: "hpprobe" + strconv.Itoa(os.Getpid()%1000000), client: client.Addr()}
	defer func() {
		if err != nil {
			o.remove()
		}
	}()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = o.iface
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(there.Fd())}
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("make interface %s: %w", o.iface, err)
	}
	// The peer first: a veth whose other end is down has no carrier.
	err = there.Do(func(ns.NetNS) error {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_dad", []byte("0"), 0)
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := configure(eth0, client); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: node.Addr().AsSlice(), Dst: defaultRoute(f)})
	})
	if err == nil {
		err = configure(veth, node)
	}
	if err == nil {
		err = errors.Join(ready(o.iface), there.Do(func(ns.NetNS) error { return ready("eth0") }))
	}
	if err != nil {
		return nil, fmt.Errorf("configure interface %s: %w", o.iface, err)
	}
	return o, nil
}

// readyTime is how long the kernel may take to tell its IPv6 stack that an
// interface has a carrier. It does so once a second if many interfaces are
// added and removed (net/core/link_watch.c).
const readyTime = 3 * time.Second

// ready waits until an interface is operational. IPv6 packets sent earlier are
// lost.
func ready(name string) error {
	for deadline := time.Now().Add(readyTime); ; time.Sleep(5 * time.Millisecond) {
		l, err := netlink.LinkByName(name)
		if err != nil || l.Attrs().OperState == netlink.OperUp {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not operational: %s", name, l.Attrs().OperState)
		}
	}
}

func defaultRoute(f hostport.Family) *net.IPNet {
	if f == hostport.IPv4 {
		return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

func configure(l netlink.Link, p netip.Prefix) error {
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return errors.Join(netlink.LinkSetUp(l), netlink.AddrAdd(l, addr))
}

// remove deletes the interfaces and the namespace.
func (o *outside) remove() {
	if l, err := netlink.LinkByName(o.iface); err == nil {
		_ = netlink.LinkDel(l)
	}
	_ = o.ns.Close()
}

// newNetns returns a new network namespace. A separate thread creates it and
// then returns to its own namespace.
func newNetns() (made ns.NetNS, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		before, openErr := os.Open("/proc/thread-self/ns/net")
		if openErr != nil {
			err = openErr
			return
		}
		defer func() { _ = before.Close() }()
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		made, err = ns.GetNS(fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()))
		// A thread that cannot return stays locked, and exits with its goroutine.
		if back := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return made, err
}
