package agent

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

// TestUpgrade replaces the agent by one whose plugin writes other rules, and goes
// back, while a client connects. When the new agent is ready the node is its own:
// plugin, records and rules.
func TestUpgrade(t *testing.T) {
	for _, b := range []world.Backend{world.IptablesNFT, world.NFTables} {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			n, net := newNode(t, b, "hostport")
			next := t.TempDir()
			for _, name := range []string{"hostport", "hostportctl", "hostport-agent"} {
				if err := os.Link(filepath.Join(n.w.PluginDir, name+"-next"), filepath.Join(next, name)); err != nil {
					t.Fatal(err)
				}
			}
			n.start()
			n.awaitReady()
			n.web(net, "web", 8080)
			rules := n.rules()
			failed := n.w.Client.Watch(t, address(world.V4, 8080), address(world.V6, 8080))
			first := n.image
			for _, image := range []string{next, first} {
				if _, err := n.stop(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				n.image = image
				n.start()
				n.awaitReady()
				if (n.rules() == rules) != (image == first) {
					t.Errorf("the rules are those of the first version: %v", image != first)
				}
				pod := n.web(n.network(), "pod", 8081)
				pod.MustDel(t)
				if got := n.repairs(); got > 0 {
					t.Errorf("%d repairs", got)
				}
				for _, name := range []string{"iptables", "nftables"} {
					// Known after the first comparison, which may still be that of before.
					n.await(answerTime, name+" is in sync", func() bool { return n.metric(`hostport_out_of_sync{backend="`+name+`"}`) == "0" })
				}
				if strings.Contains(n.log.String(), `"level":"ERROR"`) {
					t.Errorf("errors:\n%s", n.log)
				}
			}
			if errs := failed(); len(errs) > 0 {
				t.Errorf("%d connections failed: %v", len(errs), errs[0])
			}
		})
	}
}
