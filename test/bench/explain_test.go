//go:build bench

package bench

import (
	"fmt"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

// TestExplain measures the operator's tool on a node with 5,000 Services and 1,000
// mappings of 50 pods: explain, which follows a packet and its answer through all
// rules, and list, which follows one to each mapping.
func TestExplain(t *testing.T) {
	tool := world.Build(t, "github.com/hostport-cni/hostport/cmd/hostportctl", "-trimpath", "-ldflags", "-s -w")
	for _, backend := range world.Backends {
		for _, services := range pick([]int{0, 5000}, 2) {
			t.Run(fmt.Sprintf("%s/%d", backend, services), func(t *testing.T) {
				w := world.New(t, world.Options{Backend: backend})
				if backend == world.NFTables {
					w.NFTServices(services)
				} else {
					w.Services(services)
				}
				n := w.NewNetwork(world.NetworkOptions{})
				const pods, each = 50, 20
				for i := range pods {
					var ports []world.Mapping
					for k := range each {
						ports = append(ports, world.TCP(10000+each*i+k, 80))
					}
					n.MustAdd(t, fmt.Sprintf("web-%d", i), ports...).Pod.Serve("tcp", 80)
				}
				explainAndList(t, w, tool, services)
			})
		}
	}
}

func explainAndList(t *testing.T, w *world.World, tool string, services int) {
	t.Helper()
	for _, args := range [][]string{
		{"explain", "10990", "--from", world.V4.Client().String(), "--address", world.V4.Node().String()},
		{"list"},
	} {
		var took []float64
		for range runs(5) {
			r, err := process(w, tool, []string{"PATH=" + path(w)}, nil, append(args, "--data-dir", w.DataDir)...)
			if err != nil {
				t.Fatal(err)
			}
			took = append(took, milliseconds(r.wall))
		}
		record(t, "explain", "hostportctl", labels("backend", w.Backend, "services", services, "verb", args[0]), "ms", took)
	}
}
