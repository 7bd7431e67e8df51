package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// fixture returns flows of a node with the addresses 192.0.2.1, 2001:db8::1 and
// fd00::1.
func fixture() map[string]flow {
	led := udp("198.51.100.7:1002", "192.0.2.1:5353")
	led.to = netip.MustParseAddrPort("10.9.0.40:53")
	zoned := udp("198.51.100.7:1003", "192.0.2.1:5353")
	zoned.zone = 7
	tcp := udp("198.51.100.7:1001", "192.0.2.1:5353")
	tcp.protocol = 6
	away := udp("10.9.0.40:1008", "198.51.100.53:53")
	away.to = netip.MustParseAddrPort("192.0.2.1:5353")
	return map[string]flow{
		"v4":            udp("198.51.100.7:1001", "192.0.2.1:5353"),
		"v4 led on":     led,
		"v4 zone":       zoned,
		"v4 loopback":   udp("127.0.0.1:1004", "127.0.0.1:5353"),
		"v4 loopback 2": udp("127.0.0.1:1004", "127.9.9.9:5353"),
		"v4 elsewhere":  udp("10.9.0.40:1005", "198.51.100.53:5353"),
		"v4 other port": udp("198.51.100.7:1001", "192.0.2.1:5354"),
		"v4 from port":  udp("192.0.2.1:5353", "192.0.2.1:1006"),
		"v4 led here":   away, // the reply comes from the node's port, the original destination is elsewhere
		"v4 tcp":        tcp,
		"v6":            udp("[2001:db8::7]:1001", "[2001:db8::1]:5353"),
		"v6 second":     udp("[2001:db8::7]:1001", "[fd00::1]:5353"),
		"v6 loopback":   udp("[::1]:1004", "[::1]:5353"),
		"v6 elsewhere":  udp("[2001:db8::7]:1001", "[2001:db8::53]:5353"),
	}
}

func TestFlush(t *testing.T) {
	n := node(t)
	for _, tc := range []struct {
		name     string
		mappings []hostport.Forward
		gone     []string
	}{
		{"none", nil, nil},
		{"another port", anyAddress(1), nil},
		{"another protocol", []hostport.Forward{{Protocol: hostport.TCP, HostPort: 5353, To: pod4}}, nil},
		{"any address", anyAddress(5353), []string{"v4", "v4 led on", "v4 zone", "v4 loopback", "v4 loopback 2", "v6", "v6 second", "v6 loopback"}},
		{"any, IPv4 only", anyAddress(5353)[:1], []string{"v4", "v4 led on", "v4 zone", "v4 loopback", "v4 loopback 2"}},
		{"any, IPv6 only", anyAddress(5353)[1:], []string{"v6", "v6 second", "v6 loopback"}},
		{"IPv4 address", at("192.0.2.1"), []string{"v4", "v4 led on", "v4 zone"}},
		{"IPv6 address", at("fd00::1"), []string{"v6 second"}},
		{"two addresses", at("fd00::1", "2001:db8::1"), []string{"v6", "v6 second"}},
		{"address, then any", append(at("fd00::1"), anyAddress(5353)[1:]...), []string{"v6", "v6 second", "v6 loopback"}},
		{"any, then address", append(anyAddress(5353)[1:], at("fd00::1")...), []string{"v6", "v6 second", "v6 loopback"}},
		{"two ports", append(anyAddress(5354), anyAddress(1006)...), []string{"v4 other port", "v4 from port"}},
		{"many ports", ports(5000, 500), []string{"v4", "v4 led on", "v4 zone", "v4 loopback", "v4 loopback 2", "v4 other port", "v6", "v6 second", "v6 loopback"}},
	} {
		// Additional ports without flows select the other one of the kernel's
		// filters.
		for name, more := range map[string][]hostport.Forward{"by port": nil, "by protocol": ports(40000, maxWalks+1)} {
			mappings := slices.Concat(tc.mappings, more)
			t.Run(tc.name+"/"+name, func(t *testing.T) {
				must(t, n.Do(func(ns.NetNS) error {
					must(t, netlink.ConntrackTableFlush(netlink.ConntrackTable))
					var want []string
					for name, f := range fixture() {
						add(t, f)
						if !slices.Contains(tc.gone, name) {
							want = append(want, f.String())
						}
					}
					slices.Sort(want)
					must(t, Flush(t.Context(), mappings))
					if d := cmp.Diff(want, flows(t)); d != "" {
						t.Errorf("entries left (-want +got):\n%s", d)
					}
					must(t, Flush(t.Context(), mappings))
					if d := cmp.Diff(want, flows(t)); d != "" {
						t.Errorf("entries left by a second Flush (-want +got):\n%s", d)
					}
					return nil
				}))
			})
		}
	}
}

// The pods that mappings lead to.
var (
	pod4 = netip.MustParseAddrPort("10.9.0.40:53")
	pod6 = netip.MustParseAddrPort("[fd00:9::40]:53")
)

// anyAddress returns a UDP mapping at every address of the node, in both
// families.
func anyAddress(port uint16) []hostport.Forward {
	return []hostport.Forward{
		{Protocol: hostport.UDP, HostPort: port, To: pod4}, {Protocol: hostport.UDP, HostPort: port, To: pod6},
	}
}

// at returns UDP mappings of port 5353 at addresses of the node.
func at(hostIPs ...string) (out []hostport.Forward) {
	for _, s := range hostIPs {
		m := hostport.Forward{Protocol: hostport.UDP, HostIP: netip.MustParseAddr(s), HostPort: 5353, To: pod4}
		if m.HostIP.Is6() {
			m.To = pod6
		}
		out = append(out, m)
	}
	return out
}

// ports returns UDP mappings of n ports at every address of the node.
func ports(first, n uint16) (out []hostport.Forward) {
	for i := range n {
		out = append(out, anyAddress(first+i)...)
	}
	return out
}

func node(t testing.TB) ns.NetNS {
	n := namespace(t)
	must(t, n.Do(func(ns.NetNS) error {
		address(t, "lo", "192.0.2.1/32")
		address(t, "lo", "2001:db8::1/128")
		address(t, "lo", "fd00::1/128")
		return nil
	}))
	return n
}

// TestFlushMany has more entries than one datagram of a dump holds.
func TestFlushMany(t *testing.T) {
	must(t, node(t).Do(func(ns.NetNS) error {
		const stale = 5000
		for i := range stale {
			add(t, udp(fmt.Sprintf("198.51.100.7:%d", 1024+i), "192.0.2.1:53"), udp(fmt.Sprintf("10.9.0.40:%d", 1024+i), "198.51.100.53:53"))
		}
		must(t, Flush(t.Context(), anyAddress(53)))
		left := flows(t)
		if len(left) != stale || slices.ContainsFunc(left, func(s string) bool { return strings.Contains(s, ">192.0.2.1:") }) {
			t.Errorf("%d entries left, want the %d to elsewhere", len(left), stale)
		}
		return nil
	}))
}

// TestKernelFilters wants the kernel itself to filter entries: if a kernel of
// 5.8 or later does not, our request is wrong.
func TestKernelFilters(t *testing.T) {
	must(t, node(t).Do(func(ns.NetNS) error {
		for _, f := range fixture() {
			add(t, f)
		}
		for _, tc := range []struct {
			by   uint16
			f    hostport.Family
			want int
		}{
			{5353, hostport.IPv4, 6},
			{5353, hostport.IPv6, 4},
			{anyPort, hostport.IPv4, 9},
			{anyPort, hostport.IPv6, 4},
		} {
			got := 0
			err := dump(tc.f, tc.by).ExecuteIter(unix.NETLINK_NETFILTER, 0, func([]byte) bool { got++; return true })
			if err != nil || got != tc.want {
				t.Errorf("filter %d of %s: %d entries, %v; want %d", tc.by, tc.f, got, err, tc.want)
			}
		}
		return nil
	}))
}

// TestRemoveOnlyWhatWasListed wants an entry to stay that was recreated with
// the same tuple after the listing.
func TestRemoveOnlyWhatWasListed(t *testing.T) {
	onOneCPU(t)
	must(t, node(t).Do(func(ns.NetNS) error {
		f := udp("198.51.100.7:1001", "192.0.2.1:5353")
		add(t, f)
		stale, err := find(t.Context(), hostport.IPv4, 5353, func([]byte) bool { return true })
		must(t, err)
		must(t, remove(t.Context(), stale))
		if slices.Contains(flows(t), f.String()) {
			t.Fatal("the listed entry is there")
		}
		for i := range 256 { // reuse the memory of the old entry
			add(t, udp(fmt.Sprintf("198.51.100.8:%d", 1024+i), "192.0.2.1:5354"))
		}
		add(t, f)
		must(t, remove(t.Context(), stale))
		if !slices.Contains(flows(t), f.String()) {
			t.Error("the new entry is gone")
		}
		return nil
	}))
}

// onOneCPU keeps the process on one CPU until the test ends: the kernel
// allocates memory per CPU.
func onOneCPU(t *testing.T) {
	t.Helper()
	var before, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &before))
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	set := func(s *unix.CPUSet) {
		tasks, err := os.ReadDir("/proc/self/task")
		must(t, err)
		for _, task := range tasks {
			if tid, err := strconv.Atoi(task.Name()); err == nil {
				_ = unix.SchedSetaffinity(tid, s) // a thread may have exited
			}
		}
	}
	set(&one)
	t.Cleanup(func() { set(&before) })
}

func TestFlushErrors(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Flush(ctx, anyAddress(53)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is discarded
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			done <- errno
			return
		}
		err := Flush(context.Background(), anyAddress(53))
		done <- err
	}()
	if err := <-done; !errors.Is(err, unix.EPERM) {
		t.Errorf("without privilege: %v, want EPERM", err)
	}
}
