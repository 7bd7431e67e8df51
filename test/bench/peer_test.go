//go:build bench

package bench

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

// mapTheirs loads n attachments in the shape in which portmap leaves them,
// each port for tcp and for udp. The plugin itself would take minutes.
func mapTheirs(t *testing.T, w *world.World, pod netip.Addr, n int) {
	t.Helper()
	if w.Backend == world.NFTables {
		w.NFT(theirTable(pod, n))
		return
	}
	w.IptablesRestore(world.V4, theirChains(pod, n))
}

func theirChains(pod netip.Addr, n int) string {
	var b strings.Builder
	b.WriteString("*nat\n:CNI-HOSTPORT-DNAT - [0:0]\n:CNI-HOSTPORT-SETMARK - [0:0]\n:CNI-HOSTPORT-MASQ - [0:0]\n")
	for i := range n {
		fmt.Fprintf(&b, ":CNI-DN-%020d - [0:0]\n", i)
	}
	b.WriteString("-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n" +
		"-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n" +
		"-A POSTROUTING -j CNI-HOSTPORT-MASQ\n" +
		"-A CNI-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000\n" +
		"-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE\n")
	for i := range n {
		for _, p := range []string{"tcp", "udp"} {
			port := firstPort + i
			fmt.Fprintf(&b, "-A CNI-HOSTPORT-DNAT -p %s -m comment --comment \"dnat name: \\\"bench\\\" id: \\\"%d\\\"\""+
				" -m multiport --dports %d -j CNI-DN-%020d\n", p, i, port, i)
			for _, client := range []string{"10.244.0.0/24", "127.0.0.1/32"} {
				fmt.Fprintf(&b, "-A CNI-DN-%020d -s %s -p %s -m %s --dport %d -j CNI-HOSTPORT-SETMARK\n", i, client, p, p, port)
			}
			fmt.Fprintf(&b, "-A CNI-DN-%020d -p %s -m %s --dport %d -j DNAT --to-destination %s:%d\n", i, p, p, port, pod, servedPort)
		}
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

func theirTable(pod netip.Addr, n int) string {
	var b strings.Builder
	b.WriteString("table ip cni_hostport {\n chain hostports {\n")
	for i := range n {
		for _, p := range []string{"tcp", "udp"} {
			fmt.Fprintf(&b, "  %s dport %d dnat to %s:%d comment \"bench-%d\"\n", p, firstPort+i, pod, servedPort, i)
		}
	}
	const jumps = "  fib daddr type local jump hostip_hostports\n  fib daddr type local jump hostports\n }\n"
	b.WriteString(" }\n chain hostip_hostports { }\n" +
		" chain prerouting {\n  type nat hook prerouting priority dstnat; policy accept;\n" + jumps +
		" chain output {\n  type nat hook output priority -100; policy accept;\n" + jumps + "}\n")
	return b.String()
}
