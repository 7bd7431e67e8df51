package integration

import (
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

// kube-proxy's nftables mode sits at the priority of iptables' own chains, so
// whether a Service or a host port of the same number wins there depends on
// who came last. Left to choose, the plugin takes the backend that comes after
// kube-proxy; told otherwise, it warns.
func TestBesideKubeProxyInNftablesMode(t *testing.T) {
	t.Parallel()
	const warning = "kube-proxy is in nftables mode"
	w := world.New(t, world.Options{Backend: world.IptablesNFT})
	status := func(backend any) string {
		t.Helper()
		out := w.Invoke(world.Invocation{
			Command: "STATUS",
			Stdin:   w.Stdin(world.Config{"backend": backend, "runtimeConfig": nil, "prevResult": nil}),
		})
		if out.ExitCode != 0 {
			t.Fatalf("STATUS failed: %s", out.Stdout)
		}
		return string(out.Stderr)
	}
	if got := status("iptables"); strings.Contains(got, warning) {
		t.Errorf("without kube-proxy STATUS warns: %s", got)
	}
	w.Node.Command("nft", "add", "table", "ip", "kube-proxy")
	if got := status("iptables"); !strings.Contains(got, warning) {
		t.Errorf("STATUS does not warn: %q", got)
	}
	if got := status(nil); strings.Contains(got, warning) {
		t.Errorf("STATUS warns of a backend that it does not choose: %s", got)
	}

	web := w.NewNetwork(world.NetworkOptions{Hostport: world.Config{"backend": nil}}).MustAdd(t, "web", world.TCP(8080, 80))
	if !strings.Contains(w.ListNFT(), "table inet hostport") || strings.Contains(w.ListNFT(), "CNI-HP") {
		t.Errorf("the pod is not on the nftables backend:\n%s", w.ListNFT())
	}
	web.MustDel(t)
}
