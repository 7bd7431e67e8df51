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
			t.Run(fmt.Sprintf("%s/%s", backend, who), func(t *testing.T) { dataPath(t, backend, who) })
		}
	}
}

// mapped is a node with n mappings that all lead to one pod.
type mapped struct {
	*world.World
	n int
}

func newMapped(t *testing.T, backend world.Backend, who string, n int) mapped {
	t.Helper()
	w, pod := served(t, backend)
	if who == "hostport" {
		ours, _ := subjects(w)
		mapOurs(t, w, ours, pod, n)
	} else {
		mapTheirs(t, w, pod.Addr(world.V4), n)
	}
	return mapped{w, n}
}

// newMappedBy is newMapped with the plugin of a subject.
func newMappedBy(t *testing.T, backend world.Backend, s subject, n int) mapped {
	t.Helper()
	w, pod := served(t, backend)
	s.config = map[string]any{"backend": backend.Config(), "dataDir": w.DataDir}
	mapOurs(t, w, s, pod, n)
	return mapped{w, n}
}

// served is a node with one pod, both of which answer.
func served(t *testing.T, backend world.Backend) (*world.World, *world.Attachment) {
	t.Helper()
	w := world.New(t, world.Options{Backend: backend})
	pod := w.NewNetwork(world.NetworkOptions{}).MustAdd(t, "server")
	serve(t, pod.Pod.Netns)
	serve(t, w.Node) // what the unmapped port reaches
	return w, pod
}

// place is a host port by its place among the mappings.
type place struct {
	name string
	port int
}

func (m mapped) places() []place {
	places := []place{{"last", firstPort + m.n - 1}, {"not mapped", servedPort}}
	if m.n > 1 {
		places = append([]place{{"first", firstPort}, {"middle", firstPort + m.n/2}}, places...)
	}
	return places
}

// rate is new connections a second to a place.
func (m mapped) rate(t *testing.T, protocol string, p place, d time.Duration) float64 {
	t.Helper()
	x := rate(t, m.Client, protocol, netip.AddrPortFrom(world.V4.Node(), uint16(p.port)), d)
	// Entries of finished flows would make the next run slower.
	m.Node.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	return x
}

// dataPath measures the nodes in turn, again and again: what changes with time
// meets all of them.
func dataPath(t *testing.T, backend world.Backend, who string) {
	var nodes []mapped
	for _, n := range pick([]int{1, 100, 1000, 10000, 60000}, 2) {
		if who == "portmap" && n > 10000 {
			continue // it takes minutes to load and falls further
		}
		nodes = append(nodes, newMapped(t, backend, who, n))
	}
	for _, protocol := range []string{"tcp", "udp"} {
		type at struct {
			n     int
			place string
		}
		found := map[at][]float64{}
		for i := range runs(9) + 1 {
			for _, m := range nodes {
				for _, p := range m.places() {
					x := m.rate(t, protocol, p, 150*time.Millisecond)
					if i > 0 { // the first warms up
						found[at{m.n, p.name}] = append(found[at{m.n, p.name}], x)
					}
				}
			}
		}
		for _, m := range nodes {
			for _, p := range m.places() {
				record(t, "data", who, labels("backend", backend, "mappings", m.n, "protocol", protocol, "mapping", p.name), "conn/s", found[at{m.n, p.name}])
			}
		}
	}
}

// mapOurs puts n mappings into one attachment; each port is mapped for tcp and
// for udp.
func mapOurs(t *testing.T, w *world.World, ours subject, pod *world.Attachment, n int) {
	t.Helper()
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
