package containerd

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hostport-cni/hostport/test/world"
)

// TestAdopt moves a node from portmap to hostport while a pod runs. The runtime
// calls DEL with the configuration of now, so nobody would remove what portmap
// made for the pod, and the next pod with its port would not be reached.
func TestAdopt(t *testing.T) {
	for _, test := range []struct {
		release
		portmap string
		ours    world.Backend
	}{
		{debian, "iptables", world.IptablesNFT},
		{newest, "iptables", world.IptablesNFT},
		{newest, "iptables", world.NFTables},
		{newest, "nftables", world.IptablesNFT},
		{newest, "nftables", world.NFTables},
	} {
		t.Run(fmt.Sprintf("%s/portmap on %s/hostport on %s", test.name, test.portmap, test.ours), func(t *testing.T) {
			w := world.New(t, world.Options{Backend: test.ours})
			w.UsePlugin("hostport", program("hostport")) // a plugin directory of its own
			network := w.NewNetwork(world.NetworkOptions{
				CNIVersion: test.cniVersion, Type: "portmap", Hostport: world.Config{"backend": test.portmap},
			})
			d := startDaemon(t, test.release, w, network.Conflist)
			before := w.Ruleset()
			mapped := []*cri.PortMapping{tcp(18081, 80), udp(18081, 80)}
			old := d.runPod(t, pod{name: "old", ports: mapped, tcp: "80", udp: "80"})
			for _, f := range world.Families {
				if got := w.Client.Ask(t, "tcp", netip.AddrPortFrom(f.Node(), 18081)); got.Server != "old" {
					t.Fatalf("portmap leads to %s", got.Server)
				}
			}

			stop := w.Client.Watch(t, netip.AddrPortFrom(world.V4.Node(), 18081), netip.AddrPortFrom(world.V6.Node(), 18081))
			text := d.install(t, "--replace-portmap")
			if !strings.Contains(text, "adopted pod default/old") {
				t.Errorf("hostportctl install does not say that it adopted the pod:\n%s", text)
			}
			if lost := stop(); len(lost) > 0 {
				t.Errorf("%d connections were lost, such as %v", len(lost), lost[0])
			}
			for _, protocol := range []string{"tcp", "udp"} {
				d.reaches(t, protocol, 18081, "old")
			}
			d.remove(t, old)
			d.silent(t, 18081)

			next := d.runPod(t, pod{name: "next", ports: mapped, tcp: "80", udp: "80"})
			for _, protocol := range []string{"tcp", "udp"} {
				d.reaches(t, protocol, 18081, "next")
			}
			d.remove(t, next)
			d.expectRuleset(t, before)
		})
	}
}

// install runs hostportctl install on the daemon's configuration, with the
// World's backend and state, and waits until containerd has read it.
func (d *daemon) install(t *testing.T, args ...string) string {
	t.Helper()
	out := d.w.Ctl(append([]string{
		"install", "--bin-dir", d.w.PluginDir, "--conf-dir", d.confDir,
		"--config", "backend=" + d.w.Backend.Config(), "--config", "dataDir=" + d.w.DataDir,
	}, args...)...)
	text := string(out.Stdout) + string(out.Stderr)
	if out.ExitCode != 0 {
		t.Fatalf("hostportctl install %v: exit status %d\n%s", args, out.ExitCode, text)
	}
	d.waitForNetwork(t, "hostport")
	return text
}

// TestDropIn has the plugin's entry in a file of its own, which libcni appends
// to the network's chain: a main plugin that writes its conflist again does not
// take it out.
func TestDropIn(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			w := world.New(t, world.Options{Backend: b})
			w.UsePlugin("hostport", program("hostport"))
			var conflist struct {
				CNIVersion string           `json:"cniVersion"`
				Name       string           `json:"name"`
				Plugins    []map[string]any `json:"plugins"`
			}
			if err := json.Unmarshal(w.NewNetwork(world.NetworkOptions{}).Conflist, &conflist); err != nil {
				t.Fatal(err)
			}
			conflist.Plugins = conflist.Plugins[:1]
			main, err := json.Marshal(conflist)
			if err != nil {
				t.Fatal(err)
			}
			d := startDaemon(t, newest, w, main)
			p := pod{name: "web", ports: []*cri.PortMapping{tcp(81, 80)}, tcp: "80"}
			alone := d.runPod(t, p)
			d.silent(t, 81)
			d.remove(t, alone)
			before := w.Ruleset()

			d.install(t, "--mode", "dropin")
			with := d.runPod(t, p)
			d.reaches(t, "tcp", 81, "web")
			d.remove(t, with)
			d.expectRuleset(t, before)

			// The main plugin writes its conflist again.
			path := filepath.Join(d.confDir, "10-podnet.conflist")
			if err := os.WriteFile(path, append(main, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
			d.kill(t)
			d.start(t)
			d.waitReady(t)
			d.waitForNetwork(t, "hostport")
			with = d.runPod(t, p)
			d.reaches(t, "tcp", 81, "web")
			d.remove(t, with)
			d.expectRuleset(t, before)
		})
	}
}
