package faults

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// saved is a ruleset as firewall services save it.
type saved struct{ v4, v6, nft string }

var iptablesTools = []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"}

// output runs a program in the node's namespace.
func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	return string(out), err
}

// feed runs a program that has to succeed, with that standard input.
func (n *modelNode) feed(stdin, name string, args ...string) string {
	n.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s %v: %v: %s\n%s", name, args, err, out, stdin)
	}
	return string(out)
}

// use puts the tools of a variant of iptables on the PATH, as update-alternatives
// does, and those of both under their own names.
func (n *modelNode) use(variant string) {
	n.variant = variant
	for _, tool := range iptablesTools {
		for name, v := range map[string]string{
			tool: variant,
			strings.Replace(tool, "tables", "tables-nft", 1):    "nft",
			strings.Replace(tool, "tables", "tables-legacy", 1): "legacy",
		} {
			link := filepath.Join(n.tools, name)
			_ = os.Remove(link)
			if err := os.Symlink("/usr/sbin/xtables-"+v+"-multi", link); err != nil {
				n.t.Fatal(err)
			}
		}
	}
}

// changeVariant is what an upgrade of the distribution may do. What was saved is
// of the earlier variant's tools.
func (n *modelNode) changeVariant() {
	n.use(map[string]string{"nft": "legacy", "legacy": "nft"}[n.variant])
	n.saved = nil
	if n.model.drift["iptables"] == inSync {
		n.model.drift["iptables"] = altered
	}
}

// flush removes all rules, of all variants.
func (n *modelNode) flush() {
	n.t.Helper()
	n.feed("", "/usr/sbin/nft", "flush", "ruleset")
	const empty = "*nat\nCOMMIT\n*raw\nCOMMIT\n*mangle\nCOMMIT\n*filter\nCOMMIT\n"
	for _, tool := range []string{"iptables", "ip6tables"} {
		names, err := os.ReadFile("/proc/self/net/" + strings.Replace(tool, "tables", "_tables", 1) + "_names")
		if err == nil && len(names) > 0 { // else the legacy variant was never used here
			n.feed(empty, "/usr/sbin/xtables-legacy-multi", tool+"-restore", "--wait")
		}
	}
}

func (n *modelNode) save() {
	n.saved = &saved{
		v4: n.feed("", filepath.Join(n.tools, "iptables-save")), v6: n.feed("", filepath.Join(n.tools, "ip6tables-save")),
	}
	n.saved.nft, _ = output("/usr/sbin/nft", "list", "table", "inet", "hostport") // there may be inSync
}

// restore puts back what was saved, and removes our rules first, as the service
// that loads a saved ruleset does.
func (n *modelNode) restore() {
	if n.saved == nil {
		return
	}
	for tool, text := range map[string]string{"iptables-restore": n.saved.v4, "ip6tables-restore": n.saved.v6} {
		n.feed(text, filepath.Join(n.tools, tool), "--wait")
	}
	n.feed("table inet hostport\ndelete table inet hostport\n"+n.saved.nft, "/usr/sbin/nft", "-f", "-")
	n.model.drifted(altered)
}

// loseState removes the state. Rules of another time would be taken for the
// truth then, so what is known to differ is made good before.
func (n *modelNode) loseState() error {
	for _, b := range backends {
		if n.model.drift[b] == emptied { // whoever set it, nobody knows any more
			if err := os.WriteFile(routeLocalnet, []byte("0"), 0o600); err != nil {
				return err
			}
		}
		if n.model.drift[b] != altered {
			continue
		}
		if err := unlessNoState(n.node.Sync(context.Background())); err != nil {
			return err
		}
		n.model.drifted(inSync)
	}
	kernel, err := readForwards(output, n.variant == "legacy")
	if err != nil {
		return err
	}
	if err := os.RemoveAll(n.node.Dir); err != nil {
		return err
	}
	n.model.lose(kernel)
	n.saved = nil // whether an owner in it was deleted, nothing tells any more
	return nil
}

// secondState lets a pod come and go whose network has another data directory.
func (n *modelNode) secondState(a action) error {
	n.lives++
	l := &life{id: fmt.Sprintf("otherlife%d", n.lives)}
	other := n.withState("state-of-" + l.id)
	n.pods = append(n.pods, l)
	defer func() { n.pods = n.pods[:modelPods] }()
	if err := n.mount(l); err != nil {
		return err
	}
	defer n.end(l)
	want := n.want(action{pod: modelPods, ports: a.ports, address: modelAddresses, backend: a.backend})
	want.Addresses = []netip.Prefix{netip.MustParsePrefix(modelV4(modelAddresses) + "/24")}
	want.Mappings = []hostport.Mapping{{HostPort: 7000, ContainerPort: 80, Protocol: hostport.TCP}}
	if err := other.Add(context.Background(), want, false); err != nil {
		return fmt.Errorf("ADD with another data directory: %w", err)
	}
	removed, err := other.Delete(context.Background(), want.Key, "podnet", true)
	if err != nil || removed == nil {
		return fmt.Errorf("DEL with another data directory: removed %v, %w", removed, err)
	}
	// Whom the other state did not know and who is dead lost its rules.
	n.model.drifted(altered)
	return os.RemoveAll(other.Dir)
}

// supersede gives a pod a new sandbox while the earlier one is still there, as a
// runtime does that was restarted: its DEL may come late.
func (n *modelNode) supersede(pod int) {
	if l := n.pods[pod]; l != nil {
		n.dead, n.pods[pod] = append(n.dead, l), nil
	}
}

// noRules returns an error if a variant of iptables, or nftables, leads anywhere.
func (n *modelNode) noRules() error {
	for _, legacy := range []bool{false, true} {
		left, err := readForwards(output, legacy)
		if err != nil {
			return err
		}
		if len(left) > 0 {
			return fmt.Errorf("%w: rules are left (legacy: %t): %v", errModel, legacy, left)
		}
	}
	return nil
}
