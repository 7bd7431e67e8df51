package explain

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/internal/listener"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// ours holds the rules of one pod on the iptables backend, as iptables-save
// prints them.
const ours = `*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-HP-DNAT - [0:0]
:CNI-HP-MASQ - [0:0]
:CNI-HP-MASQ-13 - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HP-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HP-DNAT
-A POSTROUTING -j CNI-HP-MASQ
-A CNI-HP-DNAT -s 10.244.0.0/24 -p tcp -m tcp --dport 8080 -j MARK --set-xmark 0x2000/0x2000
-A CNI-HP-DNAT -s 127.0.0.0/8 -p tcp -m tcp --dport 8080 -j MARK --set-xmark 0x2000/0x2000
-A CNI-HP-DNAT -p tcp -m tcp --dport 8080 -m comment --comment "c eth0 4026532008 podnet default/web" -j DNAT --to-destination 10.244.0.40:80
-A CNI-HP-MASQ -m mark --mark 0x2000/0x2000 -j CNI-HP-MASQ-13
-A CNI-HP-MASQ-13 -j MARK --set-xmark 0x0/0x2000
-A CNI-HP-MASQ-13 -j MASQUERADE
COMMIT
`

// scene is a node with a question and records.
type scene struct {
	q     Question
	s     Snapshot
	rules string // of iptables-nft
	// legacy holds the rules of iptables-legacy, whose chains have the same
	// priorities.
	legacy string
	all    []node.Examined
}

func address(s string) netip.Addr { return netip.MustParseAddr(s) }

// newScene returns a node on which the packet reaches the pod.
func newScene() *scene {
	client, pod := address("198.51.100.7"), address("10.244.0.40")
	key := hostport.Key{ContainerID: "c", IfName: "eth0"}
	return &scene{
		q: Question{Port: 8080, Protocol: hostport.TCP, Address: address("192.0.2.1"), From: client, In: "up0"},
		s: Snapshot{
			Links: []Link{
				{Index: 1, Name: "lo", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128")}},
				{Index: 2, Name: "up0", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}},
				{Index: 3, Name: "cni0", Type: "bridge", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.0.1/24")}},
				{Index: 4, Name: "veth0", Type: "veth", Master: "cni0", Up: true},
			},
			Routes: map[netip.Addr]Route{
				client: {Out: "up0", Gateway: address("192.0.2.254"), Source: address("192.0.2.1"), Default: true},
				pod:    {Out: "cni0", Source: address("10.244.0.1")},
			},
			Sysctls: map[string]string{
				"net/ipv4/conf/all/forwarding": "1", "net/ipv4/conf/up0/forwarding": "1",
				"net/ipv4/conf/all/rp_filter": "1", "net/ipv4/conf/cni0/route_localnet": "1",
			},
			Conntrack: Fill{Count: 12, Max: 1000},
			Pods: map[hostport.Key]PodView{key: {
				Peer:       "veth0",
				Return:     map[netip.Addr]Route{client: {Out: "eth0", Gateway: address("10.244.0.1"), Default: true}, address("10.244.0.1"): {Out: "eth0"}},
				ReturnPeer: map[netip.Addr]string{client: "veth0", address("10.244.0.1"): "veth0"},
				Listeners: []listener.Listener{{
					Mapping: hostport.Mapping{HostPort: 80, Protocol: hostport.TCP}, Address: netip.MustParseAddrPort("[::]:80"), PID: 7, Command: "web",
				}},
			}},
		},
		rules: ours,
		all: []node.Examined{{Attachment: &hostport.Attachment{
			Key: key, Pod: hostport.Pod{Namespace: "default", Name: "web"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.0.40/24")},
			Mappings: []hostport.Mapping{{HostPort: 8080, ContainerPort: 80, Protocol: hostport.TCP}}, Backend: "iptables",
			Options: hostport.Options{SNAT: true},
		}}},
	}
}

func (c *scene) report() *Report {
	c.s.rules = append(parseSave(originIPTNFT, hostport.IPv4, c.rules), parseSave(originLegacy, hostport.IPv4, c.legacy)...)
	return Explain(&c.q, &c.s, c.all)
}

// service returns kube-proxy's rules for a Service.
func service(port string) string {
	return "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\n" +
		"-A KUBE-SERVICES -p tcp -m tcp --dport " + port + " -j DNAT --to-destination 10.244.0.9:80\nCOMMIT\n"
}

func (c *scene) pod(change func(*PodView)) {
	view := c.s.Pods[c.all[0].Key]
	change(&view)
	c.s.Pods[c.all[0].Key] = view
}

// ipvsMode has the rules by which kube-proxy's IPVS mode accepts packets for
// its Services in table nat, before our rules.
var ipvsMode = strings.Replace(ours, "-A PREROUTING", `:KUBE-SERVICES - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port" -m set --match-set KUBE-EXTERNAL-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port" -m set --match-set KUBE-EXTERNAL-IP dst,dst -m addrtype --dst-type LOCAL -j ACCEPT
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODE-PORT -p tcp -m comment --comment "Kubernetes nodeport TCP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A PREROUTING`, 1)

// setOf returns a lookup for ipsets with one member, which is an address, or an
// address and a port. All other sets are empty.
func setOf(member string) func(*Packet, string, []string) (bool, error) {
	return func(p *Packet, set string, dirs []string) (bool, error) {
		to := p.Source
		if dirs[0] == "dst" {
			to = p.Destination
		}
		have := set + " " + strings.Join(dirs, ",") + " "
		return member == have+to.Addr().String() || member == have+to.String(), nil
	}
}

func filter(forward string) string {
	return "*filter\n:INPUT ACCEPT [0:0]\n" + forward + "COMMIT\n"
}

// explained is the expected result of Explain for a changed scene.
type explained struct {
	name     string
	code     Code
	exit     int
	sentence string // a part of it
	change   func(*scene)
}

func (want explained) run(t *testing.T) {
	t.Run(want.name, func(t *testing.T) {
		c := newScene()
		want.change(c)
		r := c.report()
		if r.Code != want.code || r.Exit() != want.exit || !strings.Contains(r.Sentence, want.sentence) {
			t.Errorf("code %q, exit status %d, %q; want %q, %d and %q\n%+v", r.Code, r.Exit(), r.Sentence, want.code, want.exit, want.sentence, r.Stages)
		}
		if r.Exit() == 1 && len(r.Advice) == 0 && want.code != CodeNoMapping {
			t.Error("no advice")
		}
	})
}

func TestExplain(t *testing.T) {
	for _, tt := range []explained{
		{"arrives", CodeOK, 0, "8080/tcp on 192.0.2.1 reaches default/web (10.244.0.40:80)", func(*scene) {}},
		{"from the node", CodeOK, 0, "reaches", func(c *scene) {
			c.q.FromNode, c.q.From, c.q.In = true, c.q.Address, ""
			c.pod(func(v *PodView) { v.Return[c.q.From] = Route{Out: "eth0", Gateway: address("10.244.0.1")} })
		}},
		{"127.0.0.1", CodeOK, 0, "reaches", func(c *scene) {
			c.q.FromNode, c.q.Address, c.q.From, c.q.In = true, address("127.0.0.1"), address("127.0.0.1"), ""
		}},
		{"another port", CodeNoMapping, 1, "no pod on this node", func(c *scene) { c.q.Port = 8081 }},
		{"another protocol", CodeNoMapping, 1, "no pod on this node has this host port for udp, and default/web has it for tcp", func(c *scene) { c.q.Protocol = hostport.UDP }},
		{"CRI-O", CodeNoMapping, 1, "CRI-O leads it to 10.88.0.5:80", func(c *scene) {
			c.all = nil
			c.rules = strings.NewReplacer("CNI-HP-DNAT", "KUBE-HOSTPORTS", "10.244.0.40", "10.88.0.5").Replace(ours)
		}},
		{"another address", CodeAddressNotLocal, 1, "is not an address of this node", func(c *scene) { c.q.Address = address("192.0.2.9") }},
		{"full table", CodeConntrackFull, 1, "(1000 of 1000)", func(c *scene) { c.s.Conntrack.Count = 1000 }},
		{"a Service", CodeServiceFirst, 1, "kube-proxy leads it to 10.244.0.9:80", func(c *scene) {
			c.rules = strings.Replace(ours, "-A PREROUTING", ":KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\n"+
				"-A KUBE-SERVICES -p tcp -m tcp --dport 8080 -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.244.0.8:80\n"+
				"-A KUBE-SERVICES -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.244.0.9:80\n-A PREROUTING", 1)
		}},
		{"portmap", CodeOtherMappingFirst, 1, "portmap has a rule before ours", func(c *scene) {
			c.rules = strings.Replace(ours, "-A PREROUTING", ":CNI-HOSTPORT-DNAT - [0:0]\n-A PREROUTING -j CNI-HOSTPORT-DNAT\n"+
				"-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 80,8080 -j DNAT --to-destination 10.244.0.8:80\n-A PREROUTING", 1)
		}},
		{"dead owner", CodeOwnerDead, 1, "is gone", func(c *scene) { c.all[0].Dead = true }},
		{"flushed", CodeOutOfSync, 1, "its rules are not in the kernel", func(c *scene) { c.rules = "" }},
		{"another target", CodeOutOfSync, 1, "the record says 10.244.0.40:80", func(c *scene) {
			c.rules = strings.Replace(ours, "10.244.0.40:80", "10.244.0.41:80", 1)
		}},
		{"condition", CodeConditionExcludes, 1, "does not meet the condition", func(c *scene) {
			c.all[0].Options.ConditionsV4 = []string{"-s", "203.0.113.0/24"}
			c.rules = strings.Replace(ours, "-p tcp -m tcp --dport 8080 -m comment", "-s 203.0.113.0/24 -p tcp -m tcp --dport 8080 -m comment", 1)
		}},
		{"condition, and a rule of ours that accepts", CodeConditionExcludes, 1, "does not meet the condition", func(c *scene) {
			c.all[0].Options.ConditionsV4 = []string{"-s", "203.0.113.0/24"}
			c.rules = strings.Replace(ours, "-p tcp -m tcp --dport 8080 -m comment", "-s 203.0.113.0/24 -p tcp -m tcp --dport 8080 -m comment", 1)
			c.rules = strings.Replace(c.rules, "COMMIT", "-A CNI-HP-DNAT -j ACCEPT\nCOMMIT", 1)
		}},
		{"host IP", CodeConditionExcludes, 1, "is mapped on 192.0.2.2 only", func(c *scene) { c.all[0].Mappings[0].HostIP = address("192.0.2.2") }},
		{"family", CodeFamilyMissing, 1, "has no IPv6 address", func(c *scene) {
			c.q.Address, c.q.From = address("2001:db8::1"), address("2001:db8::7")
		}},
		{"listener", CodeListenerShadowed, 0, "hides process 99 (nginx)", func(c *scene) {
			c.s.Listeners = []listener.Listener{{Address: netip.MustParseAddrPort("0.0.0.0:8080"), PID: 99, Command: "nginx"}}
		}},
		{"no route", CodeNoRoute, 1, "no route to 10.244.0.40", func(c *scene) {
			c.s.Routes[address("10.244.0.40")] = Route{Err: "network is unreachable"}
		}},
		{"default route", CodeNoRoute, 1, "with the default route", func(c *scene) {
			c.s.Routes[address("10.244.0.40")] = Route{Out: "up0", Default: true}
		}},
		{"forwarding", CodeForwardingOff, 1, "IPv4 forwarding is off on up0", func(c *scene) { c.s.Sysctls["net/ipv4/conf/up0/forwarding"] = "0" }},
		{"policy", CodeForwardDropped, 1, "the FORWARD policy of iptables is DROP and no rule accepts it", func(c *scene) {
			c.rules += filter(":FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n")
		}},
		{"policy and accept", CodeOK, 0, "reaches", func(c *scene) {
			c.rules += filter(":FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT\n")
		}},
		{"ipset", CodeNotVisible, 2, "cannot be told", func(c *scene) {
			c.rules += filter(":FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set bad src -j DROP\n")
		}},
		{"ipset that changes nothing", CodeOK, 0, "reaches", func(c *scene) {
			c.rules += filter(":FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set bad src -j LOG\n-A FORWARD -p udp -m set --match-set bad src -j DROP\n")
		}},
		{"ipset that accepts what is accepted anyway", CodeOK, 0, "reaches", func(c *scene) {
			c.rules += filter(":FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set good src -j ACCEPT\n")
		}},
		{"ipset that drops what is dropped anyway", CodeForwardDropped, 1, "drops it", func(c *scene) {
			c.rules += filter(":FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set bad src -j REJECT\n-A FORWARD -p tcp -j DROP\n")
		}},
		{"rate limit before the translation", CodeNotVisible, 2, "cannot be told", func(c *scene) {
			c.rules += "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m limit --limit 100/sec -j ACCEPT\n-A PREROUTING -j DROP\nCOMMIT\n"
		}},
		{"rate limit of a rule that keeps it from ours", CodeNotVisible, 2, "cannot be told", func(c *scene) {
			c.rules = strings.Replace(ours, "-A PREROUTING", "-A PREROUTING -m limit --limit 100/sec -j ACCEPT\n-A PREROUTING", 1)
		}},
		{"ipset with the client", CodeForwardDropped, 1, "drops it", func(c *scene) {
			c.rules += filter(":FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set bad src -j DROP\n")
			c.s.sets = setOf("bad src 198.51.100.7")
		}},
		{"ipset without the client", CodeOK, 0, "reaches", func(c *scene) {
			c.rules += filter(":FORWARD DROP [0:0]\n-A FORWARD -m set ! --match-set bad src -j ACCEPT\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n")
			c.s.sets = setOf("bad src 198.51.100.8")
		}},
		{"a Service of the IPVS mode", CodeServiceFirst, 1, "IPVS mode has 192.0.2.1:8080", func(c *scene) {
			c.rules = ipvsMode
			c.s.sets = setOf("KUBE-EXTERNAL-IP dst,dst 192.0.2.1:8080")
			c.s.Virtual = []VirtualServer{{hostport.TCP, netip.MustParseAddrPort("192.0.2.1:8080")}}
		}},
		{"a NodePort of the IPVS mode", CodeOK, 0, "reaches", func(c *scene) {
			c.rules = ipvsMode
			c.s.sets = setOf("KUBE-NODE-PORT-TCP dst 192.0.2.1:8080")
			c.s.Virtual = []VirtualServer{{hostport.TCP, netip.MustParseAddrPort("192.0.2.1:8080")}}
		}},
		{"a rule that accepts before ours", CodeOtherMappingFirst, 1, "keeps it from our rules", func(c *scene) {
			c.rules = strings.Replace(ours, "-A PREROUTING", "-A PREROUTING -p tcp -m tcp --dport 8000:9000 -j ACCEPT\n-A PREROUTING", 1)
		}},
		{"reverse path", CodeRPFilter, 1, "rp_filter is strict on up0", func(c *scene) {
			c.s.Routes[c.q.From] = Route{Out: "cni0"}
		}},
		{"loopback from outside", CodeGuard, 1, "loopback", func(c *scene) { c.q.Address = address("127.0.0.1") }},
		{"route_localnet", CodeGuard, 1, "route_localnet is off on cni0", func(c *scene) {
			c.q.FromNode, c.q.Address, c.q.From, c.q.In = true, address("127.0.0.1"), address("127.0.0.1"), ""
			c.s.Sysctls["net/ipv4/conf/cni0/route_localnet"] = "0"
		}},
		{"nothing listens", CodePodNotListening, 1, "nothing in default/web listens on 80/tcp", func(c *scene) { c.pod(func(v *PodView) { v.Listeners = nil }) }},
		{"listens on loopback", CodePodNotListening, 1, "listens on 127.0.0.1:80 only", func(c *scene) {
			c.pod(func(v *PodView) { v.Listeners[0].Address = netip.MustParseAddrPort("127.0.0.1:80") })
		}},
		{"hidden pod", CodeNotVisible, 2, "cannot be told", func(c *scene) { c.pod(func(v *PodView) { v.Hidden = "permission denied" }) }},
		{"rules that cannot be read", CodeNotVisible, 2, "rules could not be read", func(c *scene) { c.rules, c.s.rulesHidden = "", true }},
		{"no way back", CodeReturnPath, 1, "the pod has no route", func(c *scene) {
			c.pod(func(v *PodView) { v.Return[c.q.From] = Route{Err: "network is unreachable"} })
		}},
		{"another gateway", CodeReturnPath, 1, "wrong address", func(c *scene) {
			c.pod(func(v *PodView) {
				v.Return[c.q.From] = Route{Out: "net1", Gateway: address("10.1.1.1")}
				v.ReturnPeer[c.q.From] = ""
			})
		}},
		{"answers dropped", CodeReturnPath, 1, "the answer is lost", func(c *scene) {
			c.rules += filter(":FORWARD DROP [0:0]\n-A FORWARD -d 10.244.0.40/32 -j ACCEPT\n")
		}},
	} {
		tt.run(t)
	}
}

func TestCompareContradiction(t *testing.T) {
	r := newScene().report()
	r.Compare(&Observation{Predicted: Reaches, Code: CodeOK, Reached: false, Text: "A packet was dropped."})
	if r.Verdict != Contradiction || r.Predicted != Reaches || r.Exit() != 2 {
		t.Errorf("verdict %q, predicted %q, exit status %d", r.Verdict, r.Predicted, r.Exit())
	}
}

// TestConnections wants the counter of our own rule, and of no other rule.
func TestConnections(t *testing.T) {
	c := newScene()
	c.rules = strings.Replace(ours, "-A CNI-HP-DNAT -p tcp -m tcp --dport 8080 -m comment", "[7:420] -A CNI-HP-DNAT -p tcp -m tcp --dport 8080 -m comment", 1)
	c.rules = strings.Replace(c.rules, "-A PREROUTING", "[900:1] -A PREROUTING", 1)
	for _, s := range c.report().Stages {
		switch {
		case s.Name != "translation" && s.Connections != nil:
			t.Errorf("stage %s has %d connections", s.Name, *s.Connections)
		case s.Name == "translation" && (s.Connections == nil || *s.Connections != 7 || !strings.Contains(s.Text, "(7 connections so far)")):
			t.Errorf("connections %v, %q; want 7", s.Connections, s.Text)
		}
	}
}

func TestParseVirtual(t *testing.T) {
	got := parseVirtual("IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n" +
		"  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\nTCP  C0000201:1F90 rr  \n  -> 0AF40028:0050      Masq    1      0          0         \n" +
		"UDP  [2001:0db8:0000:0000:0000:0000:0000:0001]:0035 wrr\nFWM  00000001 rr\nTCP  nonsense\nTCP  C0000201:1F9000 rr\n")
	want := []VirtualServer{
		{hostport.TCP, netip.MustParseAddrPort("192.0.2.1:8080")}, {hostport.UDP, netip.MustParseAddrPort("[2001:db8::1]:53")},
	}
	if !slices.Equal(got, want) {
		t.Errorf("virtual servers %v, want %v", got, want)
	}
}

// TestFlows wants connections that lead elsewhere to be reported, and the
// packet to arrive all the same: it begins a new connection.
func TestFlows(t *testing.T) {
	for name, tt := range map[string]struct {
		flows map[netip.AddrPort]int
		mark  Mark
		text  string
	}{
		"none":      {nil, "", ""},
		"to us":     {map[netip.AddrPort]int{netip.MustParseAddrPort("10.244.0.40:80"): 3}, MarkOK, "3 tracked connections lead to 10.244.0.40:80"},
		"elsewhere": {map[netip.AddrPort]int{netip.MustParseAddrPort("10.244.0.9:80"): 2}, MarkWarn, "2 connections that began before lead to 10.244.0.9:80"},
	} {
		c := newScene()
		c.s.Flows = tt.flows
		r := c.report()
		i := slices.IndexFunc(r.Stages, func(s Stage) bool { return s.Name == "flows" })
		if r.Code != CodeOK || (i >= 0) != (tt.mark != "") || i >= 0 && (r.Stages[i].Mark != tt.mark || !strings.Contains(r.Stages[i].Text, tt.text)) {
			t.Errorf("%s: code %s, stages %+v", name, r.Code, r.Stages)
		}
	}
}
