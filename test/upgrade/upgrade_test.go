package upgrade

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// node is a node on which one version of the plugin is followed by another.
type node struct {
	*testing.T
	w      *world.World
	before world.Ruleset
	// old and now are the same network with the earlier and the later plugin.
	old, now *world.Network
}

func newNode(t *testing.T, b world.Backend, earlier, later string) *node {
	w := world.New(t, world.Options{Backend: b})
	w.InstallVariants()
	n := &node{T: t, w: w, before: w.Ruleset()}
	dir := w.PluginDir
	n.old = n.network(earlier)
	w.PluginDir = dir
	n.now = n.network(later)
	return n
}

// network is the pods' network with one version of the plugin; "" is this one.
func (n *node) network(version string) *world.Network {
	n.Helper()
	if version != "" {
		n.w.UsePlugin("hostport", plugin(n.T, version))
	}
	return n.w.NewNetwork(world.NetworkOptions{})
}

func (n *node) add(network *world.Network, name string, port int) *world.Attachment {
	n.Helper()
	a := network.MustAdd(n, name, world.TCP(port, 80))
	a.Pod.Serve("tcp", 80)
	n.reaches(port, name)
	return a
}

func (n *node) reaches(port int, server string) {
	n.Helper()
	for _, f := range world.Families {
		if got := n.w.Client.Ask(n, "tcp", netip.AddrPortFrom(f.Node(), uint16(port))); got.Server != server {
			n.Errorf("%s asks port %d: answered by %q, want %q", f, port, got.Server, server)
		}
	}
}

// later is an attachment of the earlier plugin as the later one's.
func (n *node) later(a *world.Attachment) *world.Attachment {
	c := *a
	c.Network = n.now
	return &c
}

func (n *node) checks(all ...*world.Attachment) {
	n.Helper()
	for _, a := range all {
		if cniErr, err := n.later(a).CheckHostport(); err != nil || cniErr != nil {
			n.Errorf("CHECK of %s: %v, %v", a.Pod.Name, cniErr, err)
		}
	}
}

// ends deletes pods, and wants no rule to be left after the last.
func (n *node) ends(all ...*world.Attachment) {
	n.Helper()
	for i, a := range all {
		n.later(a).MustDel(n)
		for _, b := range all[i+1:] {
			n.reaches(b.Mapped(), b.Pod.Name)
		}
	}
	if diff := cmp.Diff(n.before, n.w.Ruleset()); diff != "" {
		n.Errorf("ruleset after the last DEL (-want +got):\n%s", diff)
	}
}

// pairs are versions that follow each other: "" is this one.
func pairs() map[string][2]string {
	out := map[string][2]string{
		"to the next layout":     {"", next},
		"back from the next one": {next, ""},
	}
	for _, commit := range past {
		out["from "+commit] = [2]string{commit, ""}
	}
	return out
}

func everyPair(t *testing.T, scene func(n *node)) {
	for name, p := range pairs() {
		for _, b := range world.Backends {
			t.Run(fmt.Sprintf("%s/%s", name, b), func(t *testing.T) {
				t.Parallel()
				scene(newNode(t, b, p[0], p[1]))
			})
		}
	}
}

// Pods of the earlier version keep their ports while pods of the later one come
// and go in the same range of ports, at every moment.
func TestPodsKeepTheirPorts(t *testing.T) {
	everyPair(t, func(n *node) {
		a, b := n.add(n.old, "a", 8080), n.add(n.old, "b", 0x1f00)
		lost := n.w.Client.Watch(n, netip.AddrPortFrom(world.V4.Node(), 8080), netip.AddrPortFrom(world.V6.Node(), 8080))
		c := n.add(n.now, "c", 8081)
		n.checks(a, b, c)
		c.MustDel(n)
		d := n.add(n.now, "d", 8090)
		n.checks(a, b, d)
		if errs := lost(); len(errs) > 0 {
			n.Errorf("%d connections to a pod of the earlier version failed: %v", len(errs), errs[0])
		}
		n.ends(a, d, b)
	})
}

// The first call of any verb, for a pod with mappings, brings the rules to the later
// layout, also on a node where no pod comes or goes.
func TestFirstCallRewrites(t *testing.T) {
	for verb, call := range map[string]func(n *node, a *world.Attachment){
		"CHECK": func(n *node, a *world.Attachment) { n.checks(a) },
		"ADD again": func(n *node, a *world.Attachment) {
			if out := n.w.Invoke(n.later(a).Invocation("ADD", nil)); out.ExitCode != 0 {
				n.Fatalf("ADD: %s", out.Stdout)
			}
		},
		"DEL of an unknown pod": func(n *node, a *world.Attachment) {
			i := n.later(a).Invocation("DEL", nil)
			i.ContainerID = "unknown"
			if out := n.w.Invoke(i); out.ExitCode != 0 {
				n.Fatalf("DEL: %s", out.Stdout)
			}
		},
		"GC": func(n *node, a *world.Attachment) {
			if err := n.now.GC(a); err != nil {
				n.Fatal(err)
			}
		},
	} {
		t.Run(verb, func(t *testing.T) {
			everyPair(t, func(n *node) {
				a := n.add(n.old, "a", 8080)
				earlier := n.w.Ruleset()
				call(n, a)
				if cmp.Equal(earlier, n.w.Ruleset()) {
					n.Errorf("the rules are those of the earlier version")
				}
				n.reaches(8080, "a")
				// Nothing is left to do for the next call.
				now := n.w.Ruleset()
				if out := n.w.Invoke(n.later(a).Invocation("ADD", nil)); out.ExitCode != 0 {
					n.Fatalf("ADD: %s", out.Stdout)
				}
				if diff := cmp.Diff(now, n.w.Ruleset()); diff != "" {
					n.Errorf("rules after ADD again (-before +after):\n%s", diff)
				}
				n.checks(a)
				n.ends(a)
			})
		})
	}
}
