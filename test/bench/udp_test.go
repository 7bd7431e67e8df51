//go:build bench

package bench

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/world"
)

// TestUDP measures ADD and DEL of a UDP mapping on a node whose connection
// tracking holds nothing, and half a million flows of others.
func TestUDP(t *testing.T) {
	entries := 500_000
	if *quick {
		entries = 20_000
	}
	room(t, entries)
	for _, backend := range []world.Backend{world.NFTables, world.IptablesNFT} {
		t.Run(string(backend), func(t *testing.T) {
			w := world.New(t, world.Options{Backend: backend})
			track(w)
			pod := w.NewNetwork(world.NetworkOptions{}).MustAdd(t, "first")
			for _, n := range []int{0, entries} {
				w.Node.Do(func() error { return crowd(n) })
				udp(t, w, pod, n)
			}
		})
	}
}

// room makes sure that the kernel takes that many entries. The limit is one
// for all namespaces, and can be written in the first alone: by run.sh.
func room(t *testing.T, entries int) {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		t.Fatal(err)
	}
	if limit, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || limit < entries+10_000 {
		t.Fatalf("net.netfilter.nf_conntrack_max is %s, too small for %d entries: measure through test/bench/run.sh", strings.TrimSpace(string(text)), entries)
	}
}

// crowd makes UDP flows that are none of ours: nine tenths to resolvers
// elsewhere, one to the node, all at port 53.
func crowd(n int) error {
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer h.Close()
	for i := range n {
		client := net.IPv4(10, byte(i>>16), byte(i>>8), byte(i)).To4()
		server := net.IPv4(198, 51, 100, byte(i)).To4()
		if i%10 == 0 {
			server = world.V4.Node().AsSlice()
		}
		port := uint16(1024 + i%60000)
		err := h.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, &netlink.ConntrackFlow{
			FamilyType: unix.AF_INET, TimeOut: 3600,
			Forward: netlink.IPTuple{SrcIP: client, DstIP: server, SrcPort: port, DstPort: 53, Protocol: unix.IPPROTO_UDP},
			Reverse: netlink.IPTuple{SrcIP: server, DstIP: client, SrcPort: 53, DstPort: port, Protocol: unix.IPPROTO_UDP},
		})
		if err != nil {
			return fmt.Errorf("make flow %d of %d: %w", i, n, err)
		}
	}
	return nil
}

func udp(t *testing.T, w *world.World, pod *world.Attachment, entries int) {
	t.Helper()
	ours, peer := subjects(w)
	found := map[observed]*series{}
	start := time.Now()
	for i := range runs(15) {
		for _, s := range []subject{ours, peer} {
			if s.name == "portmap" && enough(i, start) {
				continue
			}
			c := call{
				world: w, subject: s, container: "udp-" + s.name, netns: pod.Pod.Netns.Path,
				addresses: measured["v4"], mappings: []map[string]any{mapping(60002, "udp")},
			}
			for _, verb := range []string{"ADD", "DEL"} {
				k := observed{s.name, verb}
				if found[k] == nil {
					found[k] = &series{}
				}
				found[k].add(c.verb(t, verb))
			}
		}
	}
	for k, s := range found {
		l := labels("backend", w.Backend, "entries", entries, "verb", k.verb)
		record(t, "udp", k.subject, l, "ms", s.wall)
		record(t, "udp-cpu", k.subject, l, "ms", s.cpu)
	}
}
