//go:build bench

package bench

import (
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/hostport-cni/hostport/test/world"
)

// basePlugin is the file name of the plugin that -base names.
const basePlugin = "hostport-base"

// twin is a node on which one of two versions of the plugin works.
type twin struct {
	w                *world.World
	bare, one, large call
	crowd            []call
	crowded          mapped
}

// cell is one figure that both versions are asked for in turn. A figure is a
// cost: more is worse.
type cell struct {
	name   string
	rounds int
	cost   func(t *testing.T, n *twin) float64
}

// TestCompare measures this tree beside an earlier commit, each on a node of its
// own, in turn and in alternating order. Its figures are ratios, now by before:
// 1.05 is five percent slower.
func TestCompare(t *testing.T) {
	if *base == "" {
		t.Skip("-base names no commit")
	}
	var table strings.Builder
	columns := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintf(columns, "now / %s\tmedian\tmiddle half\tbefore (median)\tnow (median)\n", *base)
	for _, backend := range world.Backends {
		t.Run(string(backend), func(t *testing.T) {
			before, now := newTwin(t, backend, basePlugin), newTwin(t, backend, "hostport")
			for _, c := range cells() {
				ratios, b, n := paired(t, c, before, now)
				record(t, "compare", c.name, labels("backend", backend, "base", *base), "ratio", ratios)
				r, mb, mn := Summarise(ratios), Summarise(b), Summarise(n)
				fmt.Fprintf(columns, "%s: %s\t%.2f\t%.2f-%.2f\t%.2f ms\t%.2f ms\n", backend, c.name, r.Median, r.Low, r.High, mb.Median, mn.Median)
			}
		})
	}
	_ = columns.Flush()
	t.Log("\n" + table.String())
}

// paired asks both nodes for one figure, again and again, and returns the
// ratio of each round. Every eight rounds both programs are copied anew.
func paired(t *testing.T, c cell, before, now *twin) (ratios, b, n []float64) {
	t.Helper()
	for i := range runs(c.rounds) {
		var was, is float64
		if i%8 == 0 {
			reinstall(t)
			c.cost(t, before) // warms up
			c.cost(t, now)
		}
		if i%2 == 0 {
			was = c.cost(t, before)
			is = c.cost(t, now)
		} else {
			is = c.cost(t, now)
			was = c.cost(t, before)
		}
		ratios, b, n = append(ratios, is/was), append(b, was), append(n, is)
	}
	return ratios, b, n
}

func cells() []cell {
	// One call scatters by a fifth: a DEL waits for one grace period of the kernel or two.
	const short, long = 192, 64
	verb := func(name, verb string, of func(n *twin) call) cell {
		return cell{name, short, func(t *testing.T, n *twin) float64 {
			t.Helper()
			c := of(n)
			if verb == "DEL" {
				c.verb(t, "ADD")
				return milliseconds(c.verb(t, "DEL").wall)
			}
			took := milliseconds(c.verb(t, verb).wall)
			c.verb(t, "DEL")
			return took
		}}
	}
	bare := func(n *twin) call { return n.bare }
	one := func(n *twin) call { return n.one }
	large := func(n *twin) call { return n.large }
	again := func(name string, of func(n *twin) call) cell { // as after a restart of the runtime
		return cell{name, long, func(t *testing.T, n *twin) float64 {
			t.Helper()
			c := of(n)
			c.verb(t, "ADD")
			took := milliseconds(c.verb(t, "ADD").wall)
			c.verb(t, "DEL")
			return took
		}}
	}
	crowd := func(measured string) cell {
		return cell{"40 " + measured + "s at once", long, func(t *testing.T, n *twin) float64 {
			t.Helper()
			var took float64
			for _, verb := range []string{"ADD", "DEL"} {
				if ms, _ := atOnce(t, n.crowd, verb); verb == measured {
					took = ms
				}
			}
			return took
		}}
	}
	connection := func(protocol string) cell {
		return cell{"new " + protocol + " flow among 10,000 mappings", long, func(t *testing.T, n *twin) float64 {
			t.Helper()
			places := n.crowded.places()
			return 1000 / n.crowded.rate(t, protocol, places[1], 150*time.Millisecond)
		}}
	}
	return []cell{
		verb("ADD without mappings", "ADD", bare), verb("DEL without mappings", "DEL", bare),
		verb("ADD", "ADD", one), verb("DEL", "DEL", one),
		verb("ADD of 500 mappings", "ADD", large), verb("DEL of 500 mappings", "DEL", large),
		again("second ADD", one), again("second ADD of 500 mappings", large),
		crowd("ADD"), crowd("DEL"),
		connection("tcp"), connection("udp"),
	}
}

// newTwin makes a node with 100 mappings for the calls, and another with 10,000
// for the connections.
func newTwin(t *testing.T, backend world.Backend, plugin string) *twin {
	t.Helper()
	w := world.New(t, world.Options{Backend: backend})
	track(w)
	ours, _ := subjects(w)
	ours.plugin = plugin
	sandbox := w.NewPod("sandbox") // one for all: what is measured does not enter it
	of := func(name, address string, ports ...int) call {
		c := call{world: w, subject: ours, container: name, netns: sandbox.Netns.Path, addresses: []string{address}}
		for _, p := range ports {
			c.mappings = append(c.mappings, tcp(p))
		}
		return c
	}
	consecutive := func(first, n int) (ports []int) {
		for i := range n {
			ports = append(ports, first+i)
		}
		return ports
	}
	w.NewNetwork(world.NetworkOptions{}).MustAdd(t, "first") // makes the bridge that the routes lead to
	for i := range 10 {
		of(fmt.Sprintf("filler-%d", i), fmt.Sprintf("10.244.0.%d/24", 20+i), consecutive(10000+10*i, 10)...).verb(t, "ADD")
	}
	n := &twin{
		w: w, bare: of("bare", "10.244.0.250/24"), one: of("one", "10.244.0.250/24", 60001),
		large:   of("large", "10.244.0.250/24", consecutive(20000, 500)...),
		crowded: newMappedBy(t, backend, ours, 10_000),
	}
	for i := range 40 {
		n.crowd = append(n.crowd, of(fmt.Sprintf("crowd-%d", i), fmt.Sprintf("10.244.0.%d/24", 100+i), 30000+i))
	}
	return n
}
