package world_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

// TestPortmap runs a whole attachment with the plugin that hostport replaces:
// what a World shows of hostport rests on this working without it.
func TestPortmap(t *testing.T) {
	for _, b := range []world.Backend{world.IptablesNFT, world.IptablesLegacy, world.NFTables} {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			w := world.New(t, world.Options{Backend: b})
			n := w.NewNetwork(world.NetworkOptions{Type: "portmap"})
			before := w.Ruleset()
			if before != (world.Ruleset{}) {
				t.Errorf("a new node has rules: %+v", before)
			}
			a := n.MustAdd(t, "web", world.TCP(8080, 80), world.UDP(8053, 53))
			if len(w.Started()) == 0 {
				t.Error("portmap started no tool that was counted")
			}
			if w.Ruleset() == before {
				t.Error("the ruleset did not change")
			}
			a.Pod.Serve("tcp", 80)
			a.Pod.Serve("udp", 53)
			w.Elsewhere.Serve("tcp", 8080)
			for _, f := range world.Families {
				got := w.Client.Ask(t, "tcp", netip.AddrPortFrom(f.Node(), 8080))
				if got.Server != "web" || got.Client.Addr() != f.Client() {
					t.Errorf("tcp answer %v", got)
				}
				got = w.Client.Ask(t, "udp", netip.AddrPortFrom(f.Node(), 8053))
				if got.Server != "web" || got.Client.Addr() != f.Client() {
					t.Errorf("udp answer %v", got)
				}
				got = w.Client.Ask(t, "tcp", netip.AddrPortFrom(f.Elsewhere(), 8080))
				if got.Server != "elsewhere" || got.Client.Addr() != f.Client() {
					t.Errorf("answer through the node %v", got)
				}
				w.Client.Silence(t, "udp", netip.AddrPortFrom(f.Node(), 9999))
				if flows := w.UDPFlows(8053); len(flows) == 0 {
					t.Error("no conntrack entry of the UDP flow")
				}
			}
			if err := n.Status(); err != nil {
				t.Errorf("STATUS: %v", err)
			}
			a.MustDel(t)
			if after := w.Node.HasLink("cni0"); !after {
				t.Error("the bridge is gone")
			}
		})
	}
}
