package integration

import (
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// listingScenarios are about the programs with which people look at rules, save
// them and load them again.
func listingScenarios() []scenario {
	return []scenario{
		{name: "what the backend's tool saves is what it restores", reloads: true, run: func(e *env) {
			a := e.busy()
			before := e.w.Ruleset().Sorted() // chains come in another order
			if e.w.Backend == world.NFTables {
				e.reload(e.w.ListNFT())
			} else {
				e.restore(e.w.Save(e.f))
			}
			if diff := cmp.Diff(before, e.w.Ruleset().Sorted()); diff != "" {
				e.Errorf("rules after a restored listing (-want +got):\n%s", diff)
			}
			e.checks(a)
		}},
		{name: "the listing names the owner of each mapping", run: func(e *env) {
			a := e.busy()
			listing := e.w.ListNFT()
			if e.w.Backend != world.NFTables {
				listing = e.w.Save(e.f)
			}
			for _, want := range []string{"8080", "8081", "30000"} {
				found := false
				for line := range strings.Lines(listing) {
					found = found || strings.Contains(line, want) && strings.Contains(line, a.Pod.ContainerID[:12])
				}
				if !found {
					e.Errorf("no line of the listing has %s and the pod's container:\n%s", want, listing)
				}
			}
		}},
		{name: "a listing that nft cannot load is refused as a whole", backends: nftablesOnly, run: func(e *env) {
			if world.NFTRestores() {
				return
			}
			e.web()
			before := e.w.Ruleset()
			if _, err := e.w.Node.TryCommand("flush ruleset\n"+e.w.ListNFT(), "nft", "-f", "-"); err == nil {
				e.Error("this version of nft loads the table: say so where the documentation says that it does not")
			}
			e.sameRules("the refused listing", before)
			if out := e.w.Ctl("doctor"); !strings.Contains(string(out.Stdout), "cannot load what it lists") {
				e.Errorf("hostportctl doctor does not warn of this nft:\n%s%s", out.Stdout, out.Stderr)
			}
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		}},
	}
}
