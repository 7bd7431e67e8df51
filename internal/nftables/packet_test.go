package nftables

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// site is a node with two pods on a bridge and a client outside, each in a
// network namespace of its own.
type site struct {
	node, web, peer, client *world
}

func newSite(tb testing.TB) *site {
	tb.Helper()
	s := &site{newWorld(tb), newWorld(tb), newWorld(tb), newWorld(tb)}
	s.node.run("ip", "link", "set", "lo", "up")
	s.node.run("ip", "link", "add", "cni0", "type", "bridge")
	s.node.run("ip", "addr", "add", "10.244.0.1/24", "dev", "cni0")
	s.node.run("ip", "addr", "add", "fd00::1/64", "dev", "cni0", "nodad")
	s.node.run("ip", "link", "set", "cni0", "up")
	s.connect(s.web, "web", "10.244.0.3/24", "fd00::3/64")
	s.connect(s.peer, "peer", "10.244.0.4/24", "fd00::4/64")
	s.connect(s.client, "out", "192.0.2.2/24", "2001:db8::2/64")
	s.node.run("ip", "addr", "add", "192.0.2.1/24", "dev", "out")
	s.node.run("ip", "addr", "add", "2001:db8::1/64", "dev", "out", "nodad")
	for _, port := range []string{"web", "peer"} {
		s.node.run("ip", "link", "set", port, "master", "cni0")
		// Where br_netfilter is on, as here, a bridge does not send a
		// translated packet back to the port it came from without this.
		s.node.run("ip", "link", "set", port, "type", "bridge_slave", "hairpin", "on")
	}
	for w, via := range map[*world][2]string{
		s.web: {"10.244.0.1", "fd00::1"}, s.peer: {"10.244.0.1", "fd00::1"}, s.client: {"192.0.2.1", "2001:db8::1"},
	} {
		w.run("ip", "route", "add", "default", "via", via[0])
		w.run("ip", "-6", "route", "add", "default", "via", via[1])
	}
	s.node.sysctl("net/ipv4/ip_forward", "1")
	s.node.sysctl("net/ipv6/conf/all/forwarding", "1")
	s.node.sysctl("net/ipv4/conf/cni0/route_localnet", "1")
	return s
}

// connect makes a veth pair: NAME on the node, eth0 with the addresses inside.
func (s *site) connect(w *world, name string, addrs ...string) {
	w.tb.Helper()
	s.node.run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", w.ns.Path())
	s.node.run("ip", "link", "set", name, "up")
	w.run("ip", "link", "set", "lo", "up")
	w.run("ip", "link", "set", "eth0", "up")
	for _, a := range addrs {
		args := []string{"addr", "add", a, "dev", "eth0"}
		if strings.Contains(a, ":") {
			args = append(args, "nodad")
		}
		w.run("ip", args...)
	}
}

func (w *world) sysctl(name, value string) {
	w.tb.Helper()
	err := w.do(func() error { return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644) })
	if err != nil {
		w.tb.Fatal(err)
	}
}

// serve answers each connection with the client's address, and each datagram
// too; seen gets the addresses that datagrams came from.
func (w *world) serve(port int) (seen chan netip.Addr) {
	w.tb.Helper()
	seen = make(chan netip.Addr, 16)
	addr := fmt.Sprintf(":%d", port)
	var (
		l  net.Listener
		pc net.PacketConn
	)
	err := w.do(func() (err error) {
		if l, err = net.Listen("tcp", addr); err != nil {
			return err
		}
		pc, err = net.ListenPacket("udp", addr)
		return err
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { _, _ = l.Close(), pc.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, peerOf(c.RemoteAddr()).String())
			_ = c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			seen <- peerOf(from)
			_, _ = pc.WriteTo([]byte(peerOf(from).String()), from)
		}
	}()
	return seen
}

func peerOf(a net.Addr) netip.Addr {
	return netip.MustParseAddrPort(a.String()).Addr().Unmap()
}

// ask connects and returns what the server says: the address it saw.
func (w *world) ask(network, addr string) (string, error) {
	var got []byte
	err := w.do(func() error {
		c, err := net.DialTimeout(network, addr, 3*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
			return err
		}
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
			got = make([]byte, 64)
			n, err := c.Read(got)
			got = got[:n]
			return err
		}
		got, err = io.ReadAll(c)
		return err
	})
	return string(got), err
}

func TestPackets(t *testing.T) {
	for _, on := range []string{"0", "1"} {
		t.Run("br_netfilter "+on, func(t *testing.T) { testPackets(t, on) })
	}
}

func testPackets(t *testing.T, brNetfilter string) {
	s := newSite(t)
	s.node.sysctl("net/bridge/bridge-nf-call-iptables", brNetfilter)
	s.node.sysctl("net/bridge/bridge-nf-call-ip6tables", brNetfilter)
	seen := s.web.serve(80)
	web := pod(1, mapped("8001:80/tcp", "8001:80/udp"), addressed("10.244.0.3/24", "fd00::3/64"))
	n := &node{t: t, backend: s.node.backend()}
	n.add(web)

	for _, network := range []string{"tcp", "udp"} {
		for _, tt := range []struct {
			name       string
			from       *world
			addr, want string
		}{
			{"outside", s.client, "192.0.2.1:8001", "192.0.2.2"},
			{"outside, IPv6", s.client, "[2001:db8::1]:8001", "2001:db8::2"},
			{"same subnet", s.peer, "192.0.2.1:8001", "10.244.0.1"},
			{"same subnet, IPv6", s.peer, "[2001:db8::1]:8001", "fd00::1"},
			{"hairpin", s.web, "10.244.0.1:8001", "10.244.0.1"},
			{"hairpin, IPv6", s.web, "[fd00::1]:8001", "fd00::1"},
			{"node", s.node, "192.0.2.1:8001", "192.0.2.1"},
			{"localhost", s.node, "127.0.0.1:8001", "10.244.0.1"},
		} {
			t.Run(network+" "+tt.name, func(t *testing.T) {
				got, err := tt.from.ask(network, tt.addr)
				if err != nil || got != tt.want {
					t.Errorf("the server saw %q, want %q (%v)", got, tt.want, err)
				}
			})
		}
	}
	for len(seen) > 0 {
		<-seen
	}
	start := time.Now()
	if _, err := s.node.ask("tcp", "[::1]:8001"); err == nil || time.Since(start) > time.Second {
		t.Errorf("[::1] should be refused at once: %v after %v", err, time.Since(start))
	}

	// What others translate to the same pod and port is theirs, whether their
	// chain comes before ours or after.
	s.node.load(`
		table ip service {
			chain pre { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 udp dport 8001 dnat to 10.244.0.3:80; }
		}
		table ip late {
			chain pre { type nat hook prerouting priority dstnat + 20; ip daddr 192.0.2.1 udp dport 8002 dnat to 10.244.0.3:80; }
		}
		table ip nodeport {
			chain pre { type nat hook prerouting priority dstnat - 1; ip daddr 192.0.2.1 udp dport 8003 dnat to 10.244.0.3:80; }
		}`)
	n.add(pod(3, mapped("8003:80/udp"), addressed("10.244.0.3/24")))
	for _, addr := range []string{"10.96.0.1:8001", "192.0.2.1:8002", "192.0.2.1:8003"} {
		_, _ = s.peer.ask("udp", addr) // the answer goes astray, as it does without us
		select {
		case got := <-seen:
			if got.String() != "10.244.0.4" {
				t.Errorf("%s, translated by another: the server saw %s, want the client 10.244.0.4", addr, got)
			}
		case <-time.After(time.Second):
			t.Errorf("%s: nothing arrived", addr)
		}
	}
}

func TestConditionsDecide(t *testing.T) {
	s := newSite(t)
	s.web.serve(80)
	n := &node{t: t, backend: s.node.backend()}
	n.add(pod(1, addressed("10.244.0.3/24", "fd00::3/64"), mapped("8001:80/tcp", "192.0.2.1@8002:80/tcp"), options(func(o *hostport.Options) {
		o.ConditionsV4 = []string{"ip saddr != { 192.0.2.128/25, 10.244.0.4 }", "ip daddr { 192.0.2.0/28, 10.0.0.0/8 }", `iifname { "out", "cni*" }`}
	})), pod(2, addressed("10.244.0.3/24"), mapped("8009:80/tcp")))
	s.client.run("ip", "addr", "add", "192.0.2.200/24", "dev", "eth0")
	for _, tt := range []struct {
		from *world
		addr string
		want bool
	}{
		{s.client, "192.0.2.1:8001", true},
		{s.client, "192.0.2.1:8002", true},
		{s.client, "[2001:db8::1]:8001", true}, // IPv6 has no condition
		{s.peer, "192.0.2.1:8001", false},
		{s.peer, "192.0.2.1:8009", true}, // another attachment's port
		{s.node, "192.0.2.1:8001", false},
	} {
		got, err := tt.from.ask("tcp", tt.addr)
		if (err == nil) != tt.want {
			t.Errorf("%s from %p: %q, %v; want an answer: %v", tt.addr, tt.from, got, err, tt.want)
		}
	}
}

// In kube-proxy's IPVS mode the addresses of Services are the node's own, on
// an interface that carries no traffic. A condition keeps host ports off them.
func TestServiceAddressUnderIPVS(t *testing.T) {
	s := newSite(t)
	s.web.serve(80)
	s.node.run("ip", "link", "add", "kube-ipvs0", "type", "bridge")
	s.node.run("ip", "addr", "add", "10.96.0.1/32", "dev", "kube-ipvs0")
	web := pod(1, addressed("10.244.0.3/24"), mapped("8001:80/tcp"))
	n := &node{t: t, backend: s.node.backend()}
	n.add(web)
	if _, err := s.client.ask("tcp", "10.96.0.1:8001"); err != nil {
		t.Errorf("without a condition the Service address is one of the node's: %v", err)
	}
	web.Options.ConditionsV4 = []string{"ip daddr != 10.96.0.0/12"}
	n.held = []*hostport.Attachment{pod(1, addressed("10.244.0.3/24"), mapped("8001:80/tcp"))}
	n.add(web)
	if got, err := s.client.ask("tcp", "10.96.0.1:8001"); err == nil {
		t.Errorf("the Service's traffic went to the pod, which saw %s", got)
	}
	if _, err := s.client.ask("tcp", "192.0.2.1:8001"); err != nil {
		t.Errorf("the host port: %v", err)
	}
}
