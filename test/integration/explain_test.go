//go:build explain

package integration

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/world"
)

// scene is a node in a state in which a packet does or does not arrive, and
// what explain says of it.
type scene struct {
	name     string
	code     string
	backends []world.Backend
	families []world.Family
	node     world.Options
	// unsure says that the code is of a verdict "cannot tell".
	unsure bool
	// probe says what the code is with --probe, "" if the same.
	probe string
	// unlisted says that list leaves the state out.
	unlisted bool
	// arrange brings the node into the state and returns the packet.
	arrange func(e *env) packet
}

// packet is one that a client sends. server answers it, or nobody if "".
type packet struct {
	from     *world.Netns
	source   netip.Addr
	protocol string
	to       netip.AddrPort
	server   string
	args     []string
}

func (e *env) fromClient(server string) packet {
	return packet{
		from: e.w.Client, protocol: "tcp", to: e.node(8080), server: server,
		args: []string{"--from", e.f.Client().String(), "--address", e.f.Node().String()},
	}
}

func (e *env) fromNode(to netip.Addr, server string) packet {
	return packet{
		from: e.w.Node, protocol: "tcp", to: netip.AddrPortFrom(to, 8080), server: server,
		args: []string{"--from", "node", "--address", to.String()},
	}
}

func scenes() []scene {
	return slices.Concat(mappingScenes(), priorityScenes(), nodeScenes(), podScenes())
}

// priorityScenes have chains of kube-proxy beside those of iptables, at the same
// priority. The kernel asks the one first that was registered last, which only a
// packet can tell.
func priorityScenes() []scene {
	return []scene{
		{
			name: "kube-proxy's nftables mode, registered after us", code: "not-visible", unsure: true, unlisted: true, probe: "service-first",
			backends: iptablesOnly, arrange: func(e *env) packet {
				e.web()
				e.nftService()
				return e.fromClient("elsewhere")
			},
		},
		{
			name: "kube-proxy's nftables mode, registered before us", code: "not-visible", unsure: true, unlisted: true, probe: "ok",
			backends: iptablesOnly, arrange: func(e *env) packet {
				e.nftService()
				e.web()
				return e.fromClient("web")
			},
		},
		// iptables-nft makes a base chain when a rule first needs it.
		{
			name: "kube-proxy's nftables mode, registered after table nat and before its PREROUTING", code: "not-visible", unsure: true,
			unlisted: true, probe: "ok", backends: iptablesNFTOnly, arrange: func(e *env) packet {
				e.w.Iptables(e.f, "-t", "nat", "-A", "POSTROUTING", "-o", "nowhere", "-j", "MASQUERADE")
				e.nftService()
				e.web()
				return e.fromClient("web")
			},
		},
		{
			name: "kube-proxy's nftables mode, from the node", code: "not-visible", unsure: true, unlisted: true, probe: "service-first",
			backends: iptablesOnly, arrange: func(e *env) packet {
				e.web()
				e.nftService()
				return e.fromNode(e.f.Node(), "elsewhere")
			},
		},
		{
			name: "kube-proxy's nftables mode with another port", code: "ok", backends: iptablesOnly, arrange: func(e *env) packet {
				e.web()
				e.nftService()
				e.w.NFT(fmt.Sprintf("flush map %s kube-proxy service-ips", e.nftFamily()))
				return e.fromClient("web")
			},
		},
	}
}

func mappingScenes() []scene {
	return []scene{
		{name: "from outside", code: "ok", arrange: func(e *env) packet {
			e.web()
			return e.fromClient("web")
		}},
		{name: "from outside, to a pod of both families", code: "ok", arrange: func(e *env) packet {
			n := e.w.NewNetwork(world.NetworkOptions{})
			n.MustAdd(e, "web", world.TCP(8080, 80)).Pod.Serve("tcp", 80)
			return e.fromClient("web")
		}},
		{name: "from the node", code: "ok", arrange: func(e *env) packet {
			e.web()
			return e.fromNode(e.f.Node(), "web")
		}},
		{name: "127.0.0.1", code: "ok", families: v4Only, arrange: func(e *env) packet {
			e.web()
			return e.fromNode(e.f.Loopback(), "web")
		}},
		{name: "from a pod of the same bridge", code: "ok", arrange: func(e *env) packet {
			e.web()
			other := e.add("other", world.TCP(8081, 80))
			p := e.fromClient("web")
			p.from, p.args[1] = other.Pod.Netns, "pod:default/other"
			return p
		}},
		{name: "UDP", code: "ok", arrange: func(e *env) packet {
			e.add("dns", world.UDP(8080, 53)).Pod.Serve("udp", 53)
			p := e.fromClient("dns")
			p.protocol = "udp"
			return p
		}},
		{name: "no pod has the port", code: "no-mapping", arrange: func(e *env) packet {
			e.add("web", world.TCP(8081, 80)).Pod.Serve("tcp", 80)
			return e.fromClient("")
		}},
		{name: "an address of somebody else", code: "address-not-local", arrange: func(e *env) packet {
			e.web()
			p := e.fromClient("")
			p.to = netip.AddrPortFrom(e.f.Elsewhere(), 8080)
			p.args[3] = e.f.Elsewhere().String()
			return p
		}},
		{name: "a Service of the same port", code: "service-first", arrange: func(e *env) packet {
			e.service(8080)
			e.web()
			return e.fromClient("elsewhere")
		}},
		{name: "a Service of kube-proxy's nftables mode", code: "service-first", backends: nftablesOnly, arrange: func(e *env) packet {
			e.nftService()
			e.web()
			return e.fromClient("elsewhere")
		}},
		{name: "a DNAT rule of somebody else", code: "other-mapping-first", arrange: func(e *env) packet {
			e.web()
			e.w.Elsewhere.Serve("tcp", 9000)
			e.w.IptablesRestore(e.f, fmt.Sprintf("*nat\n-I PREROUTING -p tcp --dport 8080 -j DNAT --to-destination %s\nCOMMIT\n",
				netip.AddrPortFrom(e.f.Elsewhere(), 9000)))
			return e.fromClient("elsewhere")
		}},
		{name: "a DNAT rule of an nftables table", code: "other-mapping-first", arrange: func(e *env) packet {
			e.web()
			e.w.Elsewhere.Serve("tcp", 9000)
			e.w.NFT(fmt.Sprintf(`table %s router { chain pre { type nat hook prerouting priority -110; tcp dport { 8080, 8443 } dnat to %s; }; }`,
				e.nftFamily(), toward(e.f, e.f.Elsewhere().String(), 9000)))
			return e.fromClient("elsewhere")
		}},
		{name: "a pod that is gone", code: "owner-dead", arrange: func(e *env) packet {
			// A socket would keep the namespace.
			e.add("web", world.TCP(8080, 80)).Pod.Close()
			return e.fromClient("")
		}},
		{name: "rules that were flushed", code: "out-of-sync", arrange: func(e *env) packet {
			e.web()
			e.removeOurs()
			return e.fromClient("")
		}},
		{name: "conditions", code: "condition-excludes", arrange: func(e *env) packet {
			e.conditional("-s 203.0.113.0/24", "ip saddr 203.0.113.0/24", "-s 2001:db8:77::/64", "ip6 saddr 2001:db8:77::/64")
			return e.fromClient("")
		}},
		{name: "conditions that are met", code: "ok", arrange: func(e *env) packet {
			e.conditional("-s 192.0.2.0/24", "ip saddr 192.0.2.0/24", "-s 2001:db8:1::/64", "ip6 saddr 2001:db8:1::/64")
			return e.fromClient("web")
		}},
		{name: "another host IP", code: "condition-excludes", arrange: func(e *env) packet {
			e.add("web", world.TCP(8080, 80).On(e.f.NodeSecond())).Pod.Serve("tcp", 80)
			return e.fromClient("")
		}},
		{name: "a pod without the family", code: "family-missing", arrange: func(e *env) packet {
			e.web()
			o := e.f.Other()
			return packet{
				from: e.w.Client, protocol: "tcp", to: netip.AddrPortFrom(o.Node(), 8080),
				args: []string{"--from", o.Client().String(), "--address", o.Node().String()},
			}
		}},
		{name: "a process of the node on the port", code: "listener-shadowed", arrange: func(e *env) packet {
			e.web()
			e.w.Node.Serve("tcp", 8080)
			return e.fromClient("web")
		}},
	}
}

var iptablesNFTOnly = []world.Backend{world.IptablesNFT}

// ipset makes a set of ipset with one member on the node.
func (e *env) ipset(name, kind string, member *netlink.IPSetEntry) {
	e.Helper()
	family := uint8(unix.AF_INET)
	if e.f == world.V6 {
		family = unix.AF_INET6
	}
	e.w.Node.Do(func() error {
		if err := netlink.IpsetCreate(name, kind, netlink.IpsetCreateOptions{Family: family}); err != nil {
			return err
		}
		return netlink.IpsetAdd(name, member)
	})
}

func toward(f world.Family, addr string, port int) string {
	if f == world.V6 {
		return fmt.Sprintf("[%s]:%d", addr, port)
	}
	return fmt.Sprintf("%s:%d", addr, port)
}

// conditional adds a pod with conditions, which differ by backend.
func (e *env) conditional(iptV4, nftV4, iptV6, nftV6 string) {
	e.Helper()
	v4, v6 := strings.Fields(iptV4), strings.Fields(iptV6)
	if e.w.Backend == world.NFTables {
		v4, v6 = []string{nftV4}, []string{nftV6}
	}
	n := e.network(world.NetworkOptions{Hostport: world.Config{"conditionsV4": v4, "conditionsV6": v6}})
	e.addTo(n, "web", world.TCP(8080, 80)).Pod.Serve("tcp", 80)
}

func nodeScenes() []scene {
	return []scene{
		{name: "no route to the pod", code: "no-route", arrange: func(e *env) packet {
			a := e.web()
			e.w.Node.Command("ip", "route", "add", "unreachable", netip.PrefixFrom(a.Addr(e.f), a.Addr(e.f).BitLen()).String())
			return e.fromClient("")
		}},
		{name: "forwarding is off", code: "forwarding-off", arrange: func(e *env) packet {
			e.web()
			e.w.Node.Sysctl("net/ipv4/ip_forward", "0")
			e.w.Node.Sysctl("net/ipv6/conf/all/forwarding", "0")
			return e.fromClient("")
		}},
		{name: "no room for another connection", code: "conntrack-full", backends: nftablesOnly, families: v4Only, arrange: func(e *env) packet {
			e.web()
			e.w.FillConntrack()
			return e.fromClient("")
		}},
		{name: "forwarding is off, from the node", code: "ok", arrange: func(e *env) packet {
			e.web()
			e.w.Node.Sysctl("net/ipv4/ip_forward", "0")
			return e.fromNode(e.f.Node(), "web")
		}, families: v4Only},
		{name: "the FORWARD policy", code: "forward-dropped", arrange: func(e *env) packet {
			e.web()
			e.w.Iptables(e.f, "-P", "FORWARD", "DROP")
			return e.fromClient("")
		}},
		{name: "the FORWARD policy, and a rule that accepts", code: "ok", arrange: func(e *env) packet {
			e.web()
			e.w.IptablesRestore(e.f, "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT\n"+
				"-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n")
			return e.fromClient("web")
		}},
		{name: "a forward chain of an nftables table", code: "forward-dropped", arrange: func(e *env) packet {
			e.web()
			e.w.NFT(`table inet firewalld { set open { type inet_service; flags interval; elements = { 22, 8000-8100 }; };
				chain filter_FORWARD { type filter hook forward priority 10; policy drop; ct state established,related accept; tcp dport @open accept; }; }`)
			return e.fromClient("") // the pod's port is 80
		}},
		{name: "a forward chain that accepts what is translated", code: "ok", arrange: func(e *env) packet {
			e.web()
			e.w.NFT(`table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; policy drop;
				ct state { established, related } accept; ct status dnat accept; }; }`)
			return e.fromClient("web")
		}},
		{name: "a rate limit", code: "not-visible", unsure: true, probe: "ok", arrange: func(e *env) packet {
			e.web()
			e.w.NFT(`table inet limits { chain forward { type filter hook forward priority 10; policy drop;
				ct state established accept; limit rate 1000/second accept; }; }`)
			return e.fromClient("web")
		}},
		{name: "a rate limit before the translation", code: "not-visible", unsure: true, probe: "ok", arrange: func(e *env) packet {
			e.web()
			e.w.NFT(`table inet limits { chain prerouting { type filter hook prerouting priority -150; policy drop;
				ct state established accept; limit rate 1000/second accept; }; }`)
			return e.fromClient("web")
		}},
		{name: "a rate limit of what is accepted anyway", code: "ok", arrange: func(e *env) packet {
			e.web()
			e.w.NFT(`table inet limits { chain forward { type filter hook forward priority 10; limit rate 1000/second accept; }; }`)
			return e.fromClient("web")
		}},
		{name: "an ipset that has the client", code: "forward-dropped", arrange: func(e *env) packet {
			e.web()
			e.ipset("bad", "hash:net", &netlink.IPSetEntry{IP: e.f.Client().AsSlice(), CIDR: uint8(e.f.Client().BitLen() - 8)})
			e.w.IptablesRestore(e.f, "*filter\n-A FORWARD -m set --match-set bad src -j DROP\nCOMMIT\n")
			return e.fromClient("")
		}},
		{name: "an ipset that has others", code: "ok", arrange: func(e *env) packet {
			e.web()
			e.ipset("bad", "hash:ip", &netlink.IPSetEntry{IP: e.f.Elsewhere().AsSlice()})
			e.w.IptablesRestore(e.f, "*filter\n-A FORWARD -m set --match-set bad src -j DROP\nCOMMIT\n")
			return e.fromClient("web")
		}},
		{name: "an ipset with the port", code: "other-mapping-first", backends: iptablesOnly, arrange: func(e *env) packet {
			// As kube-proxy's IPVS mode has the addresses of its Services.
			port := uint16(8080)
			e.ipset("taken", "hash:ip,port", &netlink.IPSetEntry{IP: e.f.Node().AsSlice(), Port: &port})
			e.w.IptablesRestore(e.f, "*nat\n-A PREROUTING -m set --match-set taken dst,dst -j ACCEPT\nCOMMIT\n")
			e.web()
			return e.fromClient("")
		}},
		{name: "rp_filter", code: "rp-filter", families: v4Only, arrange: func(e *env) packet {
			e.web()
			e.w.Client.AddAddress("eth0", "203.0.113.9/32")
			e.w.Node.Command("ip", "route", "add", "203.0.113.0/24", "dev", "far0")
			e.w.Node.Sysctl("net/ipv4/conf/up0/rp_filter", "1")
			p := e.fromClient("")
			p.source, p.args[1] = netip.MustParseAddr("203.0.113.9"), "203.0.113.9"
			p.args = append(p.args, "--interface", "up0")
			return p
		}},
		{name: "loopback from outside", code: "guard", families: v4Only, arrange: func(e *env) packet {
			e.web()
			// The client sends to 127.0.0.2 what it would otherwise keep.
			e.w.Client.Sysctl("net/ipv4/conf/all/route_localnet", "1")
			e.w.Client.Command("ip", "route", "del", "table", "local", "local", "127.0.0.0/8")
			e.w.Client.AddRoute("eth0", "127.0.0.2/32", e.f.Node().String())
			p := e.fromClient("")
			p.source, p.to, p.args[3] = e.f.Client(), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), 8080), "127.0.0.2"
			return p
		}},
		{name: "127.0.0.1 without route_localnet", code: "guard", families: v4Only, arrange: func(e *env) packet {
			e.web()
			e.w.Node.Sysctl("net/ipv4/conf/cni0/route_localnet", "0")
			return e.fromNode(e.f.Loopback(), "")
		}},
	}
}

func podScenes() []scene {
	return []scene{
		{name: "nothing listens in the pod", code: "pod-not-listening", arrange: func(e *env) packet {
			e.add("web", world.TCP(8080, 80)).Pod.Serve("tcp", 81)
			return e.fromClient("")
		}},
		{name: "the pod listens on its loopback", code: "pod-not-listening", arrange: func(e *env) packet {
			e.add("web", world.TCP(8080, 80)).Pod.ServeOn("tcp", netip.AddrPortFrom(e.f.Loopback(), 80))
			return e.fromClient("")
		}},
		{name: "the pod has no default route", code: "return-path", arrange: func(e *env) packet {
			a := e.web()
			family := "-4"
			if e.f == world.V6 {
				family = "-6"
			}
			a.Pod.Command("ip", family, "route", "del", "default")
			return e.fromClient("")
		}},
		{name: "answers are dropped", code: "return-path", arrange: func(e *env) packet {
			a := e.web()
			e.w.Iptables(e.f, "-P", "FORWARD", "DROP")
			e.w.Iptables(e.f, "-A", "FORWARD", "-d", a.Addr(e.f).String(), "-j", "ACCEPT")
			return e.fromClient("")
		}},
		{
			name: "a neighbour that is not masqueraded", code: "return-path", node: world.Options{NoBridgeNetfilter: true},
			arrange: func(e *env) packet {
				n := e.network(world.NetworkOptions{Hostport: world.Config{"snat": false}})
				e.addTo(n, "web", world.TCP(8080, 80)).Pod.Serve("tcp", 80)
				other := e.addTo(n, "other", world.TCP(8081, 80))
				p := e.fromClient("")
				p.from, p.args[1] = other.Pod.Netns, "pod:default/other"
				return p
			},
		},
	}
}

// TestExplain brings nodes into the state of each reason code. A real packet
// shows what happens, and explain has to say that, for that reason and no other.
func TestExplain(t *testing.T) {
	for _, b := range world.Backends {
		for _, f := range world.Families {
			for _, s := range scenes() {
				if s.backends != nil && !slices.Contains(s.backends, b) || s.families != nil && !slices.Contains(s.families, f) {
					continue
				}
				t.Run(string(b)+"/"+string(f)+"/"+s.code+"/"+s.name, func(t *testing.T) {
					t.Parallel()
					s.node.Backend = b
					e := newEnv(t, s.node, f)
					p := s.arrange(e)
					e.happens(p)
					e.explained(s, p, s.code)
					if s.probe == "" {
						s.probe = s.code
					}
					e.explained(s, p, s.probe, "--probe")
					if s.unlisted {
						e.unlisted()
					}
				})
			}
		}
	}
}

// happens sends the packet.
func (e *env) happens(p packet) {
	e.Helper()
	const patience = 3 * time.Second
	timeout := patience
	if p.server == "" {
		timeout = 600 * time.Millisecond
	}
	source := netip.AddrPort{}
	if p.source.IsValid() {
		source = netip.AddrPortFrom(p.source, 0)
	}
	got, err := p.from.TryAsk(p.protocol, source, p.to, timeout)
	if p.server == "" && err == nil || p.server != "" && got.Server != p.server {
		e.Fatalf("the packet was answered by %q (%v), want %q", got.Server, err, p.server)
	}
}

// explained compares what explain says.
func (e *env) explained(s scene, p packet, code string, more ...string) {
	e.Helper()
	args := slices.Concat([]string{"explain", "8080/" + p.protocol, "-o", "json"}, p.args, more)
	out := e.w.Ctl(args...)
	var r struct {
		Code, Verdict, Sentence string
		Stages                  []struct{ Name, Mark, Text string }
		Observed                *struct{ Text string }
	}
	if err := json.Unmarshal(out.Stdout, &r); err != nil {
		e.Fatalf("explain %v: %v\n%s%s", args, err, out.Stdout, out.Stderr)
	}
	want := 1
	switch {
	case s.unsure && len(more) == 0:
		want = 2
	case code == "ok" || code == "listener-shadowed":
		want = 0
	}
	if r.Code != code || out.ExitCode != want {
		e.Errorf("explain %v: code %q, exit status %d, want %q and %d\n%s", args, r.Code, out.ExitCode, code, want, out.Stdout)
	}
	if len(more) > 0 && r.Observed == nil {
		e.Error("--probe observed nothing")
	}
}

// unlisted wants list to leave open how the host port is doing.
func (e *env) unlisted() {
	e.Helper()
	out := e.w.Ctl("list", "-o", "json", "--port", "8080")
	var r struct{ HostPorts []struct{ State string } }
	if err := json.Unmarshal(out.Stdout, &r); err != nil || len(r.HostPorts) != 1 || r.HostPorts[0].State != "" {
		e.Errorf("list (%v), want one host port without a state:\n%s%s", err, out.Stdout, out.Stderr)
	}
}

// TestExplainFlows has a connection that began before the pod had the port, and keeps
// to another server: new ones reach the pod.
func TestExplainFlows(t *testing.T) {
	e := newEnv(t, world.Options{}, world.V4)
	e.w.Elsewhere.Serve("tcp", 9000)
	to := netip.AddrPortFrom(e.f.Elsewhere(), 9000).String()
	rule := []string{"PREROUTING", "-p", "tcp", "--dport", "8080", "-j", "DNAT", "--to-destination", to}
	e.w.Iptables(e.f, append([]string{"-t", "nat", "-A"}, rule...)...)
	flow, err := e.w.Client.Dial("tcp", netip.AddrPort{}, e.node(8080), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer flow.Close()
	e.w.Iptables(e.f, append([]string{"-t", "nat", "-D"}, rule...)...)
	e.web()
	p := e.fromClient("web")
	e.happens(p)
	out := e.w.Ctl(slices.Concat([]string{"explain", "8080"}, p.args)...)
	text := strings.Join(strings.Fields(string(out.Stdout)), " ")
	if want := "! flows 1 connection that began before leads to " + to; out.ExitCode != 0 || !strings.Contains(text, want) {
		t.Errorf("exit status %d, want 0 and %q:\n%s", out.ExitCode, want, out.Stdout)
	}
}
