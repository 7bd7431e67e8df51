package upgrade

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// node is a node on which one version of the plugin is followed by another.
type node struct {
	*testing.T
	w      *world.World
	before world.Ruleset
	// earlier is the first version.
	earlier string
	// sameLayout is set if the rules of both versions are the same.
	sameLayout bool
	// old and now are the same network with the earlier and the later plugin.
	old, now *world.Network
	// oldAll is old with every client masqueraded, and conditions that the host elsewhere
	// does not meet.
	oldAll *world.Network
}

func newNode(t *testing.T, b world.Backend, earlier, later string) *node {
	w := world.New(t, world.Options{Backend: b})
	w.InstallVariants()
	n := &node{T: t, w: w, before: w.Ruleset(), earlier: earlier, sameLayout: earlier == layout4 || later == layout4}
	dir := w.PluginDir
	n.usePlugin(earlier)
	n.old = w.NewNetwork(world.NetworkOptions{})
	all := world.Config{"masqAll": true}
	for key, f := range map[string]world.Family{"conditionsV4": world.V4, "conditionsV6": world.V6} {
		all[key] = []string{"!", "-s", f.Elsewhere().String()}
		if b == world.NFTables {
			all[key] = []string{map[world.Family]string{world.V4: "ip", world.V6: "ip6"}[f] + " saddr != " + f.Elsewhere().String()}
		}
	}
	n.oldAll = w.NewNetwork(world.NetworkOptions{Hostport: all})
	w.PluginDir = dir
	n.usePlugin(later)
	n.now = w.NewNetwork(world.NetworkOptions{})
	return n
}

// usePlugin makes one version the plugin of networks made later; "" is this one.
func (n *node) usePlugin(version string) {
	n.Helper()
	if version != "" {
		n.w.UsePlugin("hostport", plugin(n.T, version))
	}
}

// aside is how far the port that a pod has on the node's second addresses is from
// the one that it has on all of them.
const aside = 100

// add makes a pod that has a port on every address of the node, over TCP and UDP,
// and another on one address of each family.
func (n *node) add(network *world.Network, name string, port int) *world.Attachment {
	n.Helper()
	a := network.MustAdd(
		n, name, world.TCP(port, 80), world.UDP(port, 53),
		world.TCP(port+aside, 80).On(world.V4.NodeSecond()), world.TCP(port+aside, 80).On(world.V6.NodeSecond()))
	a.Pod.Serve("tcp", 80)
	a.Pod.Serve("udp", 53)
	n.serves(a)
	return a
}

// serves asks pods in every way: from outside, on one address alone, from the node,
// through 127.0.0.1, and from the pod itself, over TCP and UDP and in both families.
// Who would not get the answer otherwise is masqueraded, others are not. The host
// elsewhere reaches pods without conditions.
func (n *node) serves(all ...*world.Attachment) {
	n.Helper()
	for _, a := range all {
		port := uint16(a.Mapped())
		for _, f := range world.Families {
			from := f.Client()
			if a.Network == n.oldAll {
				from = f.Gateway()
				n.w.Elsewhere.Silence(n, "tcp", netip.AddrPortFrom(f.Node(), port))
			} else {
				n.reaches(n.w.Elsewhere, "tcp", netip.AddrPortFrom(f.Node(), port), a, f.Elsewhere())
			}
			n.reaches(n.w.Client, "tcp", netip.AddrPortFrom(f.NodeSecond(), port+aside), a, from)
			for _, protocol := range []string{"tcp", "udp"} {
				to := netip.AddrPortFrom(f.Node(), port)
				n.reaches(n.w.Client, protocol, to, a, from)
				n.reaches(n.w.Node, protocol, to, a, netip.Addr{})
				n.reaches(a.Pod.Netns, protocol, to, a, f.Gateway())
				if f == world.V4 {
					n.reaches(n.w.Node, protocol, netip.AddrPortFrom(f.Loopback(), port), a, f.Gateway())
				}
			}
		}
	}
}

// reaches wants a pod to answer, and to see the client at an address, if that is valid.
func (n *node) reaches(client *world.Netns, protocol string, to netip.AddrPort, a *world.Attachment, from netip.Addr) {
	n.Helper()
	got := client.Ask(n, protocol, to)
	if got.Server != a.Pod.Name || from.IsValid() && got.Client.Addr() != from {
		n.Errorf("%s asks %s/%s: answered by %q that saw %s, want %q and %s",
			client.Name, to, protocol, got.Server, got.Client.Addr(), a.Pod.Name, from)
	}
}

// watch asks a pod all the time, over TCP and UDP, from outside, from the node and from
// the pod itself, until stop, which wants every connection and every datagram to have
// been answered.
func (n *node) watch(a *world.Attachment) (stop func()) {
	n.Helper()
	port := uint16(a.Mapped())
	var everywhere, one []netip.AddrPort
	for _, f := range world.Families {
		everywhere = append(everywhere, netip.AddrPortFrom(f.Node(), port))
		one = append(one, netip.AddrPortFrom(f.NodeSecond(), port+aside))
	}
	local := append(slices.Clone(everywhere), netip.AddrPortFrom(world.V4.Loopback(), port))
	watches := map[string]func() []error{
		"outside over TCP":        n.w.Client.Watch(n, slices.Concat(everywhere, one)...),
		"outside over UDP":        n.w.Client.WatchUDP(n, everywhere...),
		"the node over TCP":       n.w.Node.Watch(n, local...),
		"the node over UDP":       n.w.Node.WatchUDP(n, local...),
		"the pod itself over TCP": a.Pod.Watch(n, everywhere...),
		"the pod itself over UDP": a.Pod.WatchUDP(n, everywhere...),
	}
	return func() {
		n.Helper()
		for from, lost := range watches {
			if errs := lost(); len(errs) > 0 {
				n.Errorf("%d requests from %s to %s failed: %v", len(errs), from, a.Pod.Name, errs[0])
			}
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

// invoke calls the later plugin, which has to succeed.
func (n *node) invoke(i world.Invocation) {
	n.Helper()
	if out := n.w.Invoke(i); out.ExitCode != 0 {
		n.Fatalf("%s: %s", i.Command, out.Stdout)
	}
}

// ends deletes pods, and wants no rule to be left after the last.
func (n *node) ends(all ...*world.Attachment) {
	n.Helper()
	for i, a := range all {
		n.later(a).MustDel(n)
		n.serves(all[i+1:]...)
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
		"back to " + layout4:     {"", layout4},
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
		a, b := n.add(n.old, "a", 8080), n.add(n.oldAll, "b", 0x1f00)
		stop := n.watch(a)
		c := n.add(n.now, "c", 8081)
		n.checks(a, b, c)
		n.serves(a, b)
		c.MustDel(n)
		n.serves(a, b)
		d := n.add(n.now, "d", 8090)
		n.checks(a, b, d)
		n.serves(a, b)
		stop()
		n.ends(a, d, b)
	})
}

// The first call of any verb, for a pod with mappings, brings the rules to the later
// layout, also on a node where no pod comes or goes. Rules of the same layout are kept.
func TestFirstCallRewrites(t *testing.T) {
	// Each returns the pods that live then.
	for verb, call := range map[string]func(n *node, a, b *world.Attachment) []*world.Attachment{
		"CHECK": func(n *node, a, b *world.Attachment) []*world.Attachment {
			n.checks(a)
			return []*world.Attachment{a, b}
		},
		"ADD again": func(n *node, a, b *world.Attachment) []*world.Attachment {
			n.invoke(n.later(a).Invocation("ADD", nil))
			return []*world.Attachment{a, b}
		},
		"ADD of another pod": func(n *node, a, b *world.Attachment) []*world.Attachment {
			return []*world.Attachment{a, b, n.add(n.now, "c", 8081)}
		},
		"DEL of an unknown pod": func(n *node, a, b *world.Attachment) []*world.Attachment {
			i := n.later(a).Invocation("DEL", nil)
			i.ContainerID = "unknown"
			n.invoke(i)
			return []*world.Attachment{a, b}
		},
		"DEL of another pod": func(n *node, a, b *world.Attachment) []*world.Attachment {
			n.later(b).MustDel(n)
			return []*world.Attachment{a}
		},
		"GC": func(n *node, a, b *world.Attachment) []*world.Attachment {
			if err := n.now.GC(a, b); err != nil {
				n.Fatal(err)
			}
			return []*world.Attachment{a, b}
		},
		"CHECK after STATUS, which changes nothing": func(n *node, a, b *world.Attachment) []*world.Attachment {
			earlier := n.w.Ruleset()
			if err := n.now.Status(); err != nil {
				n.Errorf("STATUS: %v", err)
			}
			if diff := cmp.Diff(earlier, n.w.Ruleset()); diff != "" {
				n.Errorf("rules after STATUS (-before +after):\n%s", diff)
			}
			n.serves(a, b)
			n.checks(b)
			return []*world.Attachment{a, b}
		},
	} {
		t.Run(verb, func(t *testing.T) {
			everyPair(t, func(n *node) {
				a, b := n.add(n.old, "a", 8080), n.add(n.oldAll, "b", 0x1f00)
				const long = "2000-01-01T00:00:00Z" // ago
				if n.sameLayout {
					n.w.SetState("meta", "rewritten", long)
				}
				rules, layout := n.w.Ruleset(), n.w.State()["meta/layout"]
				live := call(n, a, b)
				if n.sameLayout {
					if now := n.w.State()["meta/rewritten"]; now != long {
						n.Errorf("the rules were rewritten at %q", now)
					}
				} else {
					if cmp.Equal(rules, n.w.Ruleset()) && !(n.earlier == layout3 && n.w.Backend == world.NFTables) {
						n.Errorf("the rules are those of the earlier version")
					}
					if layout == n.w.State()["meta/layout"] {
						n.Errorf("the state is that of the earlier version, of layout %q", layout)
					}
				}
				n.serves(live...)
				// Nothing is left to do for the next call.
				now := n.w.Ruleset()
				n.invoke(n.later(a).Invocation("ADD", nil))
				if diff := cmp.Diff(now, n.w.Ruleset()); diff != "" {
					n.Errorf("rules after ADD again (-before +after):\n%s", diff)
				}
				n.checks(live...)
				n.add(n.now, "d", 8090).MustDel(n)
				n.serves(live...)
				n.checks(live...)
				n.ends(live...)
			})
		})
	}
}

// However often all rules are rewritten, because of damage or for another layout, no
// connection and no datagram is lost in the moment of it.
func TestRewritesLoseNothing(t *testing.T) {
	for b, rounds := range map[world.Backend]int{world.IptablesNFT: 40, world.IptablesLegacy: 40, world.NFTables: 300} {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, b, "", "")
			a := n.add(n.now, "a", 8080)
			this := n.w.PluginDir
			n.usePlugin(next)
			versions := []string{n.w.PluginDir, this}
			n.w.PluginDir = this
			stop := n.watch(a)
			for range rounds {
				if b == world.NFTables {
					n.w.Node.Command("nft", "add", "chain", "inet", "hostport", "mine")
				} else {
					n.w.Node.Command(string(b), "-t", "nat", "-N", "CNI-HP-MINE")
				}
				n.ctl("rules of 1 attachment written", "sync")
				for _, n.w.PluginDir = range versions {
					layout := n.w.State()["meta/layout"]
					n.checks(a)
					if n.w.State()["meta/layout"] == layout {
						n.Fatalf("the first call of another version left layout %s", layout)
					}
				}
			}
			stop()
		})
	}
}
