package integration

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/world"
)

// loopbackScenarios are about 127/8, which stays the node's own although
// route_localnet is set.
func loopbackScenarios() []scenario {
	return []scenario{
		{name: "127.0.0.1 stays closed to pods", report: "kubernetes 90259, moby 45610", families: v4Only, reloads: true, run: func(e *env) {
			e.web()
			intruder := e.add("intruder")
			e.closed(intruder.Pod.Netns, e.f.Gateway())
		}},
		{name: "127.0.0.1 stays closed to routed pods", report: "kubernetes 90259", families: v4Only, reloads: true, run: func(e *env) {
			a := e.addTo(e.network(world.NetworkOptions{Main: "ptp"}), "intruder", world.TCP(8080, 80))
			e.closed(a.Pod.Netns, e.f.Gateway())
		}},
		{name: "127.0.0.1 stays closed to neighbours of the node", report: "kubernetes 90259", families: v4Only, reloads: true, run: func(e *env) {
			e.web()
			e.closed(e.w.Client, e.f.Node())
		}},
		{
			name: "127.0.0.1 stays closed where another program opened every interface", report: "moby 45610",
			families: v4Only, reloads: true, run: func(e *env) {
				e.w.Node.Sysctl("net/ipv4/conf/all/route_localnet", "1")
				e.web()
				e.closed(e.w.Client, e.f.Node())
			},
		},
		{name: "127.0.0.1 is closed before it is opened, and open no longer than needed", families: v4Only, run: func(e *env) {
			e.localnet("0")
			a := e.web()
			e.localnet("1")
			b := e.add("other", world.TCP(8081, 80))
			e.del(a)
			e.localnet("1")
			e.del(b)
			e.localnet("0")
		}},
		{name: "route_localnet that was set before stays", families: v4Only, run: func(e *env) {
			e.add("maker-of-the-bridge")
			e.w.Node.Sysctl("net/ipv4/conf/cni0/route_localnet", "1")
			e.del(e.web())
			e.localnet("1")
		}},
		{
			name:     "without table raw 127.0.0.1 stays closed, also after the state was lost",
			backends: iptablesOnly, families: v4Only, run: func(e *env) {
				e.withoutRaw("")
				e.web()
				e.localnet("0")
				e.loseState()
				e.webTo(e.net, "other", 8081)
				e.localnet("0")
				e.reaches(e.w.Client, "tcp", e.node(8080), "web")
				e.reaches(e.w.Client, "tcp", e.node(8081), "other")
			},
		},
		{name: "a kernel without table raw serves all but 127.0.0.1", backends: iptablesOnly, run: func(e *env) {
			e.withoutRaw("")
			e.allButLoopback(e.w.Backend == world.IptablesNFT) // the kernel tells of legacy tables: TestLackingKernel
			e.w.RestoreTools()
			e.invoke(e.live[0].Invocation("ADD", nil))
			if e.f == world.V4 {
				e.reaches(e.w.Node, "tcp", netip.AddrPortFrom(e.f.Loopback(), 8080), "web")
				e.localnet("1")
			}
		}},
		{
			name:     "a state that breaks while a resync finds no table raw is rebuilt",
			backends: iptablesOnly, families: v4Only, run: func(e *env) {
				e.withoutRaw("")
				e.web()
				e.loseState()
				broken := filepath.Join(e.w.ConfDir, "broken")
				e.withoutRaw(fmt.Sprintf("[ -e %[1]s ] || : >%[2]s; : >%[1]s", broken, filepath.Join(e.w.DataDir, "state.db")))
				e.webTo(e.net, "other", 8081)
				if _, err := os.Stat(broken); err != nil {
					e.Errorf("the state was not broken: %v", err)
				}
				e.localnet("0")
				e.reaches(e.w.Client, "tcp", e.node(8080), "web")
				e.reaches(e.w.Client, "tcp", e.node(8081), "other")
			},
		},
		{name: "a pod cannot pass for the node's loopback", report: "kubernetes 90259", families: v4Only, run: spoof},
	}
}

// withoutRaw makes the plugins' restore tools find no table raw. The kernel has it, and
// cannot lose it in one namespace, so the real tool is asked for a table that no kernel
// has, and raw is put into its complaint. On kernels that have raw as a module,
// TestLackingKernel removes it. then is what the shell does when a tool has failed.
func (e *env) withoutRaw(then string) {
	e.Helper()
	for _, tool := range []string{"iptables-restore", "ip6tables-restore"} {
		e.w.ReplaceTool(tool, `exec 3>&1
said=$(/bin/sed 's/^\*raw$/*wra/' | "$REAL" "$@" 2>&1 >&3) && exit
status=$?
echo "$said" | /bin/sed "s/'wra'/'raw'/" >&2
`+then+`
exit $status`)
	}
}

// allButLoopback wants a node without table raw to serve pods at its addresses, in both
// families, to leave 127.0.0.1 out with a warning and to keep it closed. IPv6 needs no
// such table. advised says that STATUS knows of it.
func (e *env) allButLoopback(advised bool) {
	e.Helper()
	n, families := e.net, []world.Family{e.f}
	warning, advice := "", ""
	if e.f == world.V4 {
		families = world.Families
		n = e.network(world.NetworkOptions{Families: families})
		warning, advice = "127.0.0.1 will not reach the pod", "no table raw: host ports are not reachable at 127.0.0.1"
	}
	status := e.invoke(world.Invocation{Command: "STATUS", Stdin: e.w.Stdin(nil)})
	if advised && !strings.Contains(string(status.Stderr), advice) {
		e.Errorf("STATUS does not say %q: %s", advice, status.Stderr)
	}
	a := e.addTo(n, "web", world.TCP(8080, 80), world.UDP(8080, 80))
	a.Pod.Serve("tcp", 80)
	a.Pod.Serve("udp", 80)
	again := e.invoke(a.Invocation("ADD", nil))
	if text := string(again.Stderr); !strings.Contains(text, warning) || warning == "" && text != "" {
		e.Errorf("ADD says %q, want %q", text, warning)
	}
	for _, f := range families {
		e.reaches(e.w.Client, "tcp", netip.AddrPortFrom(f.Node(), 8080), "web")
		e.reaches(e.w.Client, "udp", netip.AddrPortFrom(f.Node(), 8080), "web")
	}
	e.localnet("0")
	e.w.Node.Silence(e, "tcp", netip.AddrPortFrom(e.f.Loopback(), 8080))
	e.checks(a)
}

// localnet compares route_localnet of the pod bridge.
func (e *env) localnet(want string) {
	e.Helper()
	if !e.w.Node.HasLink("cni0") {
		return // as good as closed
	}
	if got := e.w.Node.ReadSysctl("net/ipv4/conf/cni0/route_localnet"); got != want {
		e.Errorf("net.ipv4.conf.cni0.route_localnet is %s, want %s", got, want)
	}
}

// closed shows that a host which sends packets for 127.0.0.1 to the node does
// not reach what listens there, while the node itself does, and that it would
// without the guard.
func (e *env) closed(from *world.Netns, via netip.Addr) {
	e.Helper()
	loop := e.f.Loopback()
	at := netip.AddrPortFrom(loop, 9000)
	tcp, udp := e.w.Node.ServeOn("tcp", at), e.w.Node.ServeOn("udp", at)
	e.reaches(e.w.Node, "tcp", at, "node")
	e.reaches(e.w.Node, "udp", at, "node")

	from.Command("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
	from.Sysctl("net/ipv4/conf/all/route_localnet", "1")
	from.AddRoute("eth0", loop.String()+"/32", via.String())
	from.Silence(e, "tcp", at)
	from.Silence(e, "udp", at)
	if n, m := len(tcp.Seen()), len(udp.Seen()); n != 1 || m != 1 {
		e.Errorf("the node's loopback was asked %d and %d times, want once each, by itself", n, m)
	}

	// Without any rule, and with the interface open, the same client gets
	// through: its packets were worth stopping.
	restore := e.unguard()
	before := e.w.Node.ReadSysctl("net/ipv4/conf/all/route_localnet")
	e.w.Node.Sysctl("net/ipv4/conf/all/route_localnet", "1")
	e.reaches(from, "tcp", at, "node")
	e.w.Node.Sysctl("net/ipv4/conf/all/route_localnet", before)
	restore()
}

// unguard takes every rule off the node until restore is called.
func (e *env) unguard() (restore func()) {
	e.Helper()
	if e.w.Backend == world.NFTables {
		saved := e.w.ListNFT()
		e.w.NFT("flush ruleset")
		return func() { e.w.NFT(saved) }
	}
	saved := e.w.Save(e.f)
	for table := range strings.Lines(saved) {
		if strings.HasPrefix(table, "*") {
			e.w.Iptables(e.f, "-t", strings.TrimSpace(table[1:]), "-F")
		}
	}
	return func() { e.restore(saved) }
}

// spoof sends datagrams with a source in 127/8 from a pod, to the node's own
// address and to its loopback: a service that trusts such sources must not
// see them.
func spoof(e *env) {
	a := e.web()
	node, loop := e.node(9000), netip.AddrPortFrom(e.f.Loopback(), 9000)
	onNode, onLoop := e.w.Node.ServeOn("udp", node), e.w.Node.ServeOn("udp", loop)
	a.Pod.Command("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
	a.Pod.Sysctl("net/ipv4/conf/all/route_localnet", "1")
	a.Pod.AddRoute("eth0", "127.0.0.1/32", e.f.Gateway().String())
	honest := netip.AddrPortFrom(a.Addr(e.f), 4000)
	for range 3 {
		for _, from := range []string{"127.0.0.1:4000", "127.0.0.2:4000"} {
			sendUDP(e, a.Pod.Netns, netip.MustParseAddrPort(from), node)
			sendUDP(e, a.Pod.Netns, netip.MustParseAddrPort(from), loop)
		}
		sendUDP(e, a.Pod.Netns, honest, node)
	}
	// The honest datagrams were the last to be sent: when they have been
	// seen, so would the others have been.
	for deadline := time.Now().Add(10 * time.Second); len(onNode.Seen()) < 3 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if len(onNode.Seen()) == 0 {
		e.Fatal("the pod's honest datagrams did not arrive")
	}
	for _, client := range onNode.Seen() {
		if client != honest {
			e.Errorf("the node's own address was reached as %s", client)
		}
	}
	if seen := onLoop.Seen(); len(seen) > 0 {
		e.Errorf("the node's loopback was reached as %v", seen)
	}
}

// sendUDP sends one IPv4 datagram with any source address.
func sendUDP(t testing.TB, n *world.Netns, source, destination netip.AddrPort) {
	t.Helper()
	packet := make([]byte, 29)
	packet[0], packet[8], packet[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	copy(packet[12:], source.Addr().AsSlice())
	copy(packet[16:], destination.Addr().AsSlice())
	binary.BigEndian.PutUint16(packet[20:], source.Port())
	binary.BigEndian.PutUint16(packet[22:], destination.Port())
	binary.BigEndian.PutUint16(packet[24:], 9)
	packet[28] = '?'
	n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: destination.Addr().As4()})
	})
}
