package conntrack

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// entries is the size of the table in the benchmarks.
const entries = 500_000

// raiseLimit makes room for the entries. All namespaces share one limit, which
// can only be written in the initial one.
func raiseLimit(b *testing.B) {
	b.Helper()
	const limit = "/proc/sys/net/netfilter/nf_conntrack_max"
	before, err := os.ReadFile(limit)
	must(b, err)
	must(b, os.WriteFile(limit, []byte("1000000"), 0o644))
	b.Cleanup(func() { must(b, os.WriteFile(limit, before, 0o644)) })
}

// crowd fills the calling thread's namespace with unrelated UDP flows to port
// 53: nine tenths to remote resolvers, one tenth to the node.
func crowd(b *testing.B) {
	b.Helper()
	flows := make([]flow, 0, 50_000)
	for i := range entries {
		client := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		server := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 53)
		if i%10 == 0 {
			server = netip.MustParseAddrPort("192.0.2.1:53")
		}
		flows = append(flows, flow{protocol: 17, src: netip.AddrPortFrom(client, uint16(1024+i%60000)), dst: server})
		if len(flows) == cap(flows) {
			add(b, flows...)
			flows = flows[:0]
		}
	}
}

// BenchmarkFlush removes ten stale flows, alone in the table and among 500,000
// others, with each of the kernel's filters: by port up to maxWalks ports, by protocol above.
func BenchmarkFlush(b *testing.B) {
	raiseLimit(b)
	n := node(b)
	for _, size := range []int{0, entries} {
		if size > 0 {
			must(b, n.Do(func(ns.NetNS) error { crowd(b); return nil }))
		}
		for _, ports := range []int{1, maxWalks, maxWalks + 1, 500} {
			b.Run(fmt.Sprintf("entries=%d/ports=%d", size, ports), func(b *testing.B) {
				must(b, n.Do(func(ns.NetNS) error { benchmark(b, ports); return nil }))
			})
		}
	}
}

func benchmark(b *testing.B, ports int) {
	var mappings []hostport.Forward
	for p := range ports {
		mappings = append(mappings, anyAddress(uint16(20000 + p))[0])
	}
	stale := make([]flow, 10)
	for i := range stale {
		stale[i] = udp(fmt.Sprintf("198.51.100.7:%d", 1024+i), "192.0.2.1:20000")
	}
	b.ReportAllocs()
	var cpu time.Duration
	for b.Loop() {
		b.StopTimer()
		add(b, stale...)
		before := threadTime(b)
		b.StartTimer()
		err := Flush(b.Context(), mappings)
		b.StopTimer()
		cpu += threadTime(b) - before
		must(b, err)
		b.StartTimer()
	}
	b.ReportMetric(float64(cpu.Microseconds())/1000/float64(b.N), "cpu-ms/op")
}

// threadTime returns the processor time of the calling thread, including the
// kernel's part: a busy machine does not distort it.
func threadTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_THREAD, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
