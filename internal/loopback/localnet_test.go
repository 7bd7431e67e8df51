package loopback

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/netns"
)

// node runs f in a network namespace with the interface cni.100 (10.9.0.1/24),
// a second one, eth0, and the routes 10.9.1.0/24 and 10.9.2.0/24 over them.
func node(t *testing.T, f func()) {
	t.Helper()
	err := netns.New(t).Do(func(ns.NetNS) error {
		for name, addr := range map[string]string{"cni.100": "10.9.0.1/24", "eth0": "192.0.2.1/24"} {
			link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "p" + name}
			must(t, netlink.LinkAdd(link))
			must(t, netlink.LinkSetUp(link))
			peer, err := netlink.LinkByName("p" + name)
			must(t, err)
			must(t, netlink.LinkSetUp(peer))
			a, err := netlink.ParseAddr(addr)
			must(t, err)
			must(t, netlink.AddrAdd(link, a))
		}
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		must(t, netlink.LinkSetUp(lo))
		for dst, gw := range map[string]string{"10.9.1.0/24": "10.9.0.2", "10.9.2.0/24": "192.0.2.2"} {
			to, err := netlink.ParseIPNet(dst)
			must(t, err)
			must(t, netlink.RouteAdd(&netlink.Route{Dst: to, Gw: net.ParseIP(gw)}))
		}
		f()
		return nil
	})
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestInterface(t *testing.T) {
	node(t, func() {
		for _, tc := range []struct{ pod, want, err string }{
			{"10.9.0.40", "cni.100", ""},
			{"::ffff:10.9.0.40", "cni.100", ""},
			{"10.9.1.40", "cni.100", ""},
			{"10.9.2.40", "eth0", ""},
			{"10.9.0.1", "", "the node's own"},
			{"127.0.0.1", "", "the node's own"},
			{"198.51.100.1", "", "network is unreachable"},
		} {
			pod, _ := netip.ParseAddr(tc.pod)
			got, err := Interface(pod)
			if got != tc.want || (err == nil) != (tc.err == "") {
				t.Errorf("Interface(%s) = %q, %v; want %q", tc.pod, got, err, tc.want)
			} else if err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("Interface(%s) says %v, want %q in it", tc.pod, err, tc.err)
			}
		}
	})
}

// fromLoopback sends a packet from 127.0.0.1 to the pod's address.
func fromLoopback(t *testing.T, pod string) error {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer func() { _ = c.Close() }()
	_, err = c.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort(pod+":9"))
	return err
}

func TestOpenAndClose(t *testing.T) {
	node(t, func() {
		if err := fromLoopback(t, "10.9.0.40"); !errors.Is(err, unix.EINVAL) {
			t.Errorf("closed: a packet from 127.0.0.1 to the pod: %v, want EINVAL", err)
		}
		if err := Check("cni.100"); err == nil || !strings.Contains(err.Error(), "net.ipv4.conf.cni.100.route_localnet is 0") {
			t.Errorf("closed: Check = %v", err)
		}
		must(t, Open("cni.100"))
		must(t, Open("cni.100"))
		if err := fromLoopback(t, "10.9.0.40"); err != nil {
			t.Errorf("open: a packet from 127.0.0.1 to the pod: %v", err)
		}
		must(t, Check("cni.100"))
		if err := Check("eth0"); err == nil {
			t.Error("opening cni.100 opened eth0")
		}
		if err := fromLoopback(t, "10.9.2.40"); !errors.Is(err, unix.EINVAL) {
			t.Errorf("a packet from 127.0.0.1 over eth0: %v, want EINVAL", err)
		}
		must(t, Close("cni.100"))
		must(t, Close("cni.100"))
		if err := fromLoopback(t, "10.9.0.40"); !errors.Is(err, unix.EINVAL) {
			t.Errorf("closed again: a packet from 127.0.0.1 to the pod: %v, want EINVAL", err)
		}
	})
}

func TestInterfaceGone(t *testing.T) {
	node(t, func() {
		must(t, Close("gone"))
		if err := Open("gone"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open = %v, want ErrNotExist", err)
		}
		if err := Check("gone"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Check = %v, want ErrNotExist", err)
		}
	})
}

// TestNames wants valid interface names to work, and names that would reach
// another file to be refused before any file is touched.
func TestNames(t *testing.T) {
	node(t, func() {
		for _, name := range []string{"..a", "a..b", "-x", "$(id)", "ünï", "fifteen-letters"} {
			must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}))
			if err := Check(name); err == nil {
				t.Errorf("%q is open at the start", name)
			}
			must(t, Open(name))
			must(t, Check(name))
			must(t, Close(name))
		}
		for _, name := range []string{"", ".", "..", "all", "default", "../conf/all", "eth0/", "a/b", "eth0\n", "a b", "a\x00", "sixteen-letters-", "eth0:1"} {
			if err := Open(name); err == nil || !strings.Contains(err.Error(), "not the name") {
				t.Errorf("Open(%q) = %v, want it refused", name, err)
			}
			if err := Close(name); err == nil {
				t.Errorf("Close(%q) is not refused", name)
			}
			if err := Check(name); err == nil {
				t.Errorf("Check(%q) is not refused", name)
			}
		}
		for _, name := range []string{"all", "default", "eth0"} {
			b, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/route_localnet")
			must(t, err)
			if string(b) != "0\n" {
				t.Errorf("route_localnet of %s became %q", name, b)
			}
		}
	})
}
