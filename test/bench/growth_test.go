//go:build bench

package bench

import (
	"fmt"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

// TestGrowth measures what a further pod costs as attachments grow to 5,000:
// ADD and DEL of the plugin, list and sync of the operator's tool.
func TestGrowth(t *testing.T) {
	tool := world.Build(t, "github.com/hostport-cni/hostport/cmd/hostportctl", "-trimpath", "-ldflags", "-s -w")
	for _, backend := range []world.Backend{world.NFTables, world.IptablesNFT} {
		t.Run(string(backend), func(t *testing.T) {
			w := world.New(t, world.Options{Backend: backend})
			pod := w.NewNetwork(world.NetworkOptions{}).MustAdd(t, "first")
			// The pods of this section have a network of their own, which a
			// route leads to.
			w.Node.AddRoute("cni0", "10.244.64.0/18", "")
			have := 0
			for _, n := range pick([]int{0, 100, 1000, 2500, 5000}, 2) {
				for ; have < n; have++ {
					grown(w, pod, fmt.Sprintf("grown-%d", have), have).verb(t, "ADD")
				}
				growth(t, w, pod, tool, n)
			}
		})
	}
}

// grown is the attachment of a number.
func grown(w *world.World, pod *world.Attachment, container string, i int) call {
	ours, _ := subjects(w)
	return call{
		world: w, subject: ours, container: container, netns: pod.Pod.Netns.Path,
		addresses: []string{fmt.Sprintf("10.244.%d.%d/18", 64+i>>8, i&255)}, mappings: []map[string]any{tcp(10000 + i)},
	}
}

func growth(t *testing.T, w *world.World, pod *world.Attachment, tool string, n int) {
	t.Helper()
	c := grown(w, pod, "measured", 6000)
	found := map[string][]float64{}
	for range runs(15) {
		for _, verb := range []string{"ADD", "DEL"} {
			found[verb] = append(found[verb], milliseconds(c.verb(t, verb).wall))
		}
	}
	for range runs(5) {
		for _, verb := range []string{"list", "sync"} {
			r, err := process(w, tool, []string{"PATH=" + path(w)}, nil, verb, "--data-dir", w.DataDir)
			if err != nil {
				t.Fatal(err)
			}
			found[verb] = append(found[verb], milliseconds(r.wall))
		}
	}
	for verb, xs := range found {
		record(t, "growth", "hostport", labels("backend", w.Backend, "attachments", n, "verb", verb), "ms", xs)
	}
}
