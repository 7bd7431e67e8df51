package listener

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/netns"
)

// node runs f in a network namespace with addresses of both families on lo.
func node(t *testing.T, f func()) {
	t.Helper()
	err := netns.New(t).Do(func(ns.NetNS) error {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		must(t, netlink.LinkSetUp(lo))
		for _, s := range []string{"192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128"} {
			a, err := netlink.ParseAddr(s)
			must(t, err)
			a.Flags |= unix.IFA_F_NODAD // available for binding at once
			must(t, netlink.AddrAdd(lo, a))
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

// listen opens a socket until the test ends. network is tcp4, tcp6 (IPv6
// only), tcp (both families, if the address is ::), and udp likewise.
func listen(t *testing.T, network, address string) {
	t.Helper()
	if strings.HasPrefix(network, "udp") {
		c, err := net.ListenPacket(network, address)
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return
	}
	l, err := net.Listen(network, address)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
}

// mapping reads "PROTOCOL ADDRESS PORT", where ADDRESS may be "any".
func mapping(t *testing.T, s string) hostport.Mapping {
	t.Helper()
	f := strings.Fields(s)
	port, err := strconv.ParseUint(f[2], 10, 16)
	must(t, err)
	m := hostport.Mapping{Protocol: hostport.Protocol(f[0]), HostPort: uint16(port), ContainerPort: 80}
	if f[1] != "any" {
		m.HostIP = netip.MustParseAddr(f[1])
	}
	return m
}

func TestFind(t *testing.T) {
	for _, tc := range []struct {
		name, network, address string
		hit, miss              []string
	}{
		{
			"IPv4 wildcard", "tcp4", "0.0.0.0:8080",
			[]string{"tcp any 8080", "tcp 0.0.0.0 8080", "tcp 192.0.2.1 8080", "tcp ::ffff:192.0.2.1 8080"},
			[]string{"tcp :: 8080", "tcp 2001:db8::1 8080", "udp any 8080", "tcp any 8081", "sctp any 8080"},
		},
		{
			"IPv6 wildcard of both families", "tcp", "[::]:8080",
			[]string{"tcp any 8080", "tcp 0.0.0.0 8080", "tcp 192.0.2.1 8080", "tcp :: 8080", "tcp 2001:db8::1 8080"},
			[]string{"udp any 8080", "tcp any 808"},
		},
		{
			"IPv6 wildcard alone", "tcp6", "[::]:8080",
			[]string{"tcp any 8080", "tcp :: 8080", "tcp 2001:db8::1 8080"},
			[]string{"tcp 0.0.0.0 8080", "tcp 192.0.2.1 8080"},
		},
		{
			"IPv4 address", "tcp4", "192.0.2.1:8080",
			[]string{"tcp any 8080", "tcp 0.0.0.0 8080", "tcp 192.0.2.1 8080"},
			[]string{"tcp 192.0.2.2 8080", "tcp :: 8080"},
		},
		{
			"IPv4 address on an IPv6 socket", "mapped", "",
			[]string{"tcp any 8080", "tcp 192.0.2.1 8080"},
			[]string{"tcp 192.0.2.2 8080", "tcp :: 8080", "tcp 2001:db8::1 8080"},
		},
		{
			"IPv6 address", "udp6", "[2001:db8::1]:53",
			[]string{"udp any 53", "udp :: 53", "udp 2001:db8::1 53"},
			[]string{"udp ::1 53", "udp 0.0.0.0 53", "tcp any 53"},
		},
		{
			"UDP of both families", "udp", "[::]:53",
			[]string{"udp any 53", "udp 192.0.2.1 53", "udp 2001:db8::1 53"},
			[]string{"tcp any 53"},
		},
		{
			"loopback", "udp4", "127.0.0.1:53",
			[]string{"udp any 53", "udp 127.0.0.1 53"},
			[]string{"udp 192.0.2.1 53"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			node(t, func() {
				if tc.network == "mapped" {
					listenMapped(t, netip.MustParseAddr("192.0.2.1"), 8080)
				} else {
					listen(t, tc.network, tc.address)
				}
				for _, s := range tc.hit {
					got, err := Find([]hostport.Mapping{mapping(t, "tcp any 9"), mapping(t, s)})
					must(t, err)
					if len(got) != 1 || got[0].PID != os.Getpid() || got[0].Mapping != mapping(t, s) {
						t.Errorf("Find(%s) = %+v, want this process once", s, got)
					}
				}
				for _, s := range tc.miss {
					if got, err := Find([]hostport.Mapping{mapping(t, s)}); err != nil || len(got) != 0 {
						t.Errorf("Find(%s) = %v, %v; want none", s, got, err)
					}
				}
			})
		})
	}
}

// listenMapped binds an IPv6 socket to an IPv4-mapped address.
func listenMapped(t *testing.T, addr netip.Addr, port int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	must(t, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0))
	must(t, unix.Bind(fd, &unix.SockaddrInet6{Port: port, Addr: addr.As16()}))
	must(t, unix.Listen(fd, 1))
}

// TestFindIgnoresConnections wants connections to a port, and a UDP client that
// happens to use it, not to count as listeners.
func TestFindIgnoresConnections(t *testing.T) {
	node(t, func() {
		l, err := net.Listen("tcp4", "192.0.2.1:8080")
		must(t, err)
		out, err := net.Dial("tcp4", "192.0.2.1:8080")
		must(t, err)
		in, err := l.Accept()
		must(t, err)
		must(t, l.Close())
		client, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5353}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 53})
		must(t, err)
		if got, err := Find([]hostport.Mapping{mapping(t, "tcp any 8080"), mapping(t, "udp any 5353")}); err != nil || len(got) != 0 {
			t.Errorf("Find = %v, %v; want none", got, err)
		}
		_, _, _ = in.Close(), out.Close(), client.Close()
	})
}

func TestFindMany(t *testing.T) {
	node(t, func() {
		listen(t, "tcp4", "127.0.0.1:9001")
		listen(t, "tcp4", "192.0.2.1:9001")
		listen(t, "udp6", "[::1]:9003")
		var ms []hostport.Mapping
		for port := range 500 {
			ms = append(ms, mapping(t, "tcp any "+strconv.Itoa(8999+port)), mapping(t, "udp :: "+strconv.Itoa(8999+port)))
		}
		found, err := Find(ms)
		must(t, err)
		var got []string
		for _, l := range found {
			got = append(got, l.Address.String()+" "+l.Mapping.String())
		}
		want := "127.0.0.1:9001 9001/tcp, 192.0.2.1:9001 9001/tcp, [::1]:9003 [::]:9003/udp"
		if strings.Join(got, ", ") != want {
			t.Errorf("Find =\n%s\nwant\n%s", strings.Join(got, ", "), want)
		}
	})
}

// TestFindNamesTheProcess wants the process of a socket to be named, and a
// SO_REUSEPORT group to be one listener.
func TestFindNamesTheProcess(t *testing.T) {
	node(t, func() {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			}), err)
		}}
		var files []*os.File
		for range 2 {
			l, err := lc.Listen(t.Context(), "tcp4", "0.0.0.0:8080")
			must(t, err)
			f, err := l.(*net.TCPListener).File()
			must(t, err)
			must(t, l.Close())
			files = append(files, f)
		}
		child := exec.Command("sleep", "60")
		child.ExtraFiles = files
		must(t, child.Start())
		for _, f := range files {
			must(t, f.Close())
		}
		m := mapping(t, "tcp any 8080")
		got, err := Find([]hostport.Mapping{m})
		_ = child.Process.Kill()
		_ = child.Wait()
		must(t, err)
		want := Listener{Mapping: m, Address: netip.MustParseAddrPort("0.0.0.0:8080"), PID: child.Process.Pid, Command: "sleep"}
		if len(got) != 1 || got[0] != want {
			t.Fatalf("Find = %+v, want %+v", got, want)
		}
		if s := got[0].String(); s != "0.0.0.0:8080/tcp is listened on by process "+strconv.Itoa(want.PID)+` ("sleep")` {
			t.Errorf("String = %s", s)
		}
	})
}
