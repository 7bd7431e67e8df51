package nftables

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/answer"
)

// site is a node with two pods on a bridge and a client outside, each in a
// network namespace of its own.
type site struct {
	node, web, peer, client *world
}

func newSite(tb testing.TB) *site {
	tb.Helper()
	s := &site{web: newWorld(tb), peer: newWorld(tb), client: newWorld(tb)}
	s.node = newWorld(tb) // where backends work
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

// serve answers on a TCP and a UDP port with the client's address.
func (w *world) serve(port int) *answer.Server {
	w.tb.Helper()
	s := &answer.Server{Name: "web"}
	for _, protocol := range []string{"tcp", "udp"} {
		if err := w.do(func() error {
			c, err := s.Listen(protocol, fmt.Sprintf(":%d", port))
			if err == nil {
				w.tb.Cleanup(func() { _ = c.Close() })
			}
			return err
		}); err != nil {
			w.tb.Fatal(err)
		}
	}
	return s
}

// ask asks and returns the address that the server saw.
func (w *world) ask(protocol, addr string) (string, error) {
	const patience = 3 * time.Second
	var got answer.Answer
	err := w.do(func() error {
		f, err := answer.Dial(protocol, netip.AddrPort{}, netip.MustParseAddrPort(addr), patience)
		if err != nil {
			return err
		}
		defer f.Close()
		got, err = f.Ask(patience)
		return err
	})
	if err != nil {
		return "", err
	}
	return got.Client.Addr().String(), nil
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
	web := s.web.serve(80)
	n := &node{t: t, backend: new(Backend)}
	n.add(pod(1, mapped("8001:80/tcp", "8001:80/udp"), addressed("10.244.0.3/24", "fd00::3/64")))

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
		before := len(web.Seen())
		_, _ = s.peer.ask("udp", addr) // the answer goes astray, as it does without us
		if seen := web.Seen()[before:]; len(seen) == 0 {
			t.Errorf("%s: nothing arrived", addr)
		} else if got := seen[0].Addr().String(); got != "10.244.0.4" {
			t.Errorf("%s, translated by another: the server saw %s, want the client 10.244.0.4", addr, got)
		}
	}
}

func TestConditionsDecide(t *testing.T) {
	s := newSite(t)
	s.web.serve(80)
	n := &node{t: t, backend: new(Backend)}
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
	n := &node{t: t, backend: new(Backend)}
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
