//go:build bench

package bench

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/hostport-cni/hostport/test/world"
)

// firstPort is the first of N consecutive host ports; all lead to the same
// server.
const firstPort = 2000

// TestDataPath measures new connections through the first, the middle and the
// last of N mappings, and to a port of the node that is not mapped.
func TestDataPath(t *testing.T) {
	for _, backend := range world.Backends {
		for _, who := range []string{"hostport", "portmap"} {
			for _, n := range pick([]int{1, 100, 1000, 10000, 60000}, 2) {
				if who == "portmap" && n > 10000 {
					continue // it takes minutes to load and falls further
				}
				t.Run(fmt.Sprintf("%s/%s/N=%d", backend, who, n), func(t *testing.T) { dataPath(t, backend, who, n) })
			}
		}
	}
}

func dataPath(t *testing.T, backend world.Backend, who string, n int) {
	w := world.New(t, world.Options{Backend: backend})
	pod := w.NewNetwork(world.NetworkOptions{}).MustAdd(t, "server")
	serve(t, pod.Pod.Netns)
	serve(t, w.Node) // what the unmapped port reaches
	addr := pod.Addr(world.V4)
	if who == "hostport" {
		mapOurs(t, w, pod, n)
	} else {
		mapTheirs(t, w, addr, n)
	}
	type place struct {
		name string
		port int
	}
	places := []place{{"last", firstPort + n - 1}, {"not mapped", servedPort}}
	if n > 1 {
		places = append([]place{{"first", firstPort}, {"middle", firstPort + n/2}}, places...)
	}
	for _, protocol := range []string{"tcp", "udp"} {
		found := map[string][]float64{}
		for i := range runs(5) + 1 {
			for _, p := range places {
				d := 250 * time.Millisecond
				if i == 0 {
					d = 50 * time.Millisecond // warms up
				}
				to := netip.AddrPortFrom(world.V4.Node(), uint16(p.port))
				if x := rate(t, w.Client, protocol, to, d); i > 0 {
					found[p.name] = append(found[p.name], x)
				}
				// Entries of finished flows would make the next run slower.
				w.Node.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
			}
		}
		for _, p := range places {
			record(t, "data", who, labels("backend", backend, "mappings", n, "protocol", protocol, "mapping", p.name), "conn/s", found[p.name])
		}
	}
}

// mapOurs puts n mappings into one attachment; each port is mapped for tcp and
// for udp.
func mapOurs(t *testing.T, w *world.World, pod *world.Attachment, n int) {
	t.Helper()
	ours, _ := subjects(w)
	ours.config["lockTimeout"] = "10m" // a tool may take that long as well
	c := call{
		world: w, subject: ours, container: "many", netns: pod.Pod.Netns.Path,
		addresses: []string{pod.Addr(world.V4).String() + "/24"},
	}
	for i := range n {
		for _, protocol := range []string{"tcp", "udp"} {
			c.mappings = append(c.mappings, mapping(firstPort+i, protocol))
		}
	}
	r := c.verb(t, "ADD")
	t.Logf("%d mappings took %v to add", 2*n, r.wall.Round(time.Millisecond))
}
