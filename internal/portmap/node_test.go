package portmap_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/portmap"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/golden"
	"github.com/hostport-cni/hostport/test/world"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

// scene is a node on which portmap serves pods.
type scene struct {
	*testing.T
	w    *world.World
	node *portmap.Node
}

// eachBackend runs a test on both variants of iptables and on nftables.
func eachBackend(t *testing.T, run func(scene)) {
	for _, b := range world.Backends {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			w := world.New(t, world.Options{Backend: b})
			s := scene{T: t, w: w, node: &portmap.Node{CacheDir: w.CacheDir, Run: runOn(w)}}
			s.node.Tools = portmap.Tools(func(name string) (string, error) { return s.path(name) })
			run(s)
		})
	}
}

func (s scene) path(name string) (string, error) {
	path := filepath.Join(s.w.ToolDir, name)
	_, err := os.Stat(path)
	return path, err
}

func runOn(w *world.World) portmap.Run {
	return func(_ context.Context, program, stdin string, args ...string) (string, error) {
		return w.Node.TryCommand(stdin, filepath.Join(w.ToolDir, program), args...)
	}
}

func (s scene) read() *portmap.Found {
	s.Helper()
	var found *portmap.Found
	s.w.Node.Do(func() (err error) {
		found, err = s.node.Read(s.Context())
		return err
	})
	return found
}

// remove removes portmap's rules of the attachments in gone.
func (s scene) remove(gone ...*world.Attachment) {
	s.Helper()
	s.removeFrom(s.read(), func(o *portmap.Served) bool {
		for _, a := range gone {
			if o.ContainerID == a.Pod.ContainerID {
				return true
			}
		}
		return false
	})
}

func (s scene) removeFrom(found *portmap.Found, gone func(*portmap.Served) bool) {
	s.w.Node.Do(func() error { return s.node.Remove(s.Context(), found, gone) })
}

func (s scene) network(name string, second bool, families []world.Family, entry world.Config) *world.Network {
	return s.w.NewNetwork(world.NetworkOptions{Name: name, Type: "portmap", Second: second, Families: families, Hostport: entry})
}

// pods adds attachments of many kinds.
func (s scene) pods() {
	one := s.network("podnet", false, nil, nil)
	one.MustAdd(s, "plain", world.TCP(8080, 80))
	many := []world.Mapping{
		world.UDP(53, 5353).On(world.V4.Node()), world.TCP(443, 8443).On(world.V6.Node()),
		world.TCP(9090, 90).On(world.V4.Any()),
		{HostPort: 132, ContainerPort: 133, Protocol: "sctp"},
	}
	for port := 7000; port < 7017; port++ {
		many = append(many, world.TCP(port, port))
	}
	one.MustAdd(s, "many", many...)
	one.MustAdd(s, "none")

	entry := world.Config{"masqAll": true, "conditionsV4": []string{"!", "-d", "10.96.0.0/12", "-i", "up0"}, "markMasqBit": 5}
	if s.w.Backend == world.NFTables {
		entry["conditionsV4"] = []string{"ip", "daddr", "!=", "10.96.0.0/12"}
		delete(entry, "markMasqBit")
	}
	two := s.network("second.net", true, []world.Family{world.V4}, entry)
	two.MustAdd(s, "four", world.TCP(9000, 90))
}

// TestGolden compares what is read about pods of many kinds with a file, once
// with libcni's cache and once from the rules alone.
func TestGolden(t *testing.T) {
	eachBackend(t, func(s scene) {
		s.pods()
		s.golden(string(s.w.Backend) + ".json")
		s.node.CacheDir = filepath.Join(s.w.CacheDir, "lost")
		s.golden(string(s.w.Backend) + "-rules.json")
	})
}

func (s scene) golden(file string) {
	s.Helper()
	found := s.read()
	for _, o := range found.Served {
		if o.Cached != strings.HasPrefix(o.Sandbox.Path, filepath.Dir(s.w.Node.Path)) {
			s.Errorf("%s: cached %t, sandbox %q", o.ContainerID, o.Cached, o.Sandbox.Path)
		}
		o.Sandbox = hostport.Sandbox{}
	}
	got, err := json.MarshalIndent(found.Served, "", "  ")
	if err != nil {
		s.Fatal(err)
	}
	golden.Equal(s, file, string(got)+"\n")
}

// TestRemoveOne removes the rules of one pod like portmap's own DEL, while the
// other pod stays reachable, and with the last pod everything that portmap
// created.
func TestRemoveOne(t *testing.T) {
	eachBackend(t, func(s scene) {
		before := s.w.Ruleset()
		n := s.network("podnet", false, nil, nil)
		a := n.MustAdd(s, "a", world.TCP(8080, 80))
		b := n.MustAdd(s, "b", world.TCP(8081, 80), world.UDP(8081, 80))
		for _, p := range []*world.Attachment{a, b} {
			p.Pod.Serve("tcp", 80)
		}

		s.remove(b)
		got := s.w.Ruleset()
		b.MustDel(s)
		if diff := cmp.Diff(s.w.Ruleset(), got); diff != "" {
			s.Errorf("portmap's DEL finds rules of b (-DEL +removed):\n%s", diff)
		}
		for _, f := range world.Families {
			s.w.Client.Silence(s, "tcp", addrPort(f, 8081))
			if got := s.w.Client.Ask(s, "tcp", addrPort(f, 8080)); got.Server != "a" {
				s.Errorf("%s: port 8080 is answered by %s", f, got.Server)
			}
		}
		s.remove(a)
		if diff := cmp.Diff(before, s.w.Ruleset()); diff != "" {
			s.Errorf("ruleset after the last (-before +after):\n%s", diff)
		}
		if found := s.read(); len(found.Served) != 1 || found.Served[0].Programmed {
			s.Errorf("after the last removal: %+v", found.Served)
		}
	})
}

// TestRemoveWithoutCache removes rules whose container is known only from them,
// after the pods have died without a DEL.
func TestRemoveWithoutCache(t *testing.T) {
	eachBackend(t, func(s scene) {
		before := s.w.Ruleset()
		s.pods()
		s.node.CacheDir = filepath.Join(s.w.CacheDir, "lost")
		s.removeFrom(s.read(), func(*portmap.Served) bool { return true })
		if diff := cmp.Diff(before, s.w.Ruleset()); diff != "" {
			s.Errorf("ruleset (-before +after):\n%s", diff)
		}
	})
}

// TestLoopback has a runtime that attaches lo too, with the same mappings, as
// containerd does: portmap serves only eth0, and its rules are removed with
// eth0.
func TestLoopback(t *testing.T) {
	eachBackend(t, func(s scene) {
		before := s.w.Ruleset()
		p := s.w.NewPod("web")
		lo := s.w.NetworkFromConflist([]byte(`{"cniVersion": "1.0.0", "name": "cni-loopback", "plugins": [{"type": "loopback"}]}`))
		if _, err := lo.AddInterface(p, "lo", world.TCP(8080, 80)); err != nil {
			s.Fatal(err)
		}
		if _, err := s.network("podnet", false, nil, nil).Add(p, world.TCP(8080, 80)); err != nil {
			s.Fatal(err)
		}
		found := s.read()
		if len(found.Served) != 1 || found.Served[0].IfName != "eth0" {
			s.Errorf("portmap serves %+v, want eth0 alone", found.Served)
		}
		s.removeFrom(found, func(o *portmap.Served) bool { return o.Network == "podnet" })
		if diff := cmp.Diff(before, s.w.Ruleset()); diff != "" {
			s.Errorf("ruleset (-before +after):\n%s", diff)
		}
	})
}

// TestTwoNetworks has a pod in two networks, whose rules have nothing but the
// container's ID in common on nftables. Both attachments are found, and the
// rules of one are removed without those of the other, even if the other's
// cache entry is lost.
func TestTwoNetworks(t *testing.T) {
	eachBackend(t, func(s scene) {
		before := s.w.Ruleset()
		p := s.w.NewPod("web")
		p.Serve("tcp", 80)
		if _, err := s.network("podnet", false, nil, nil).Add(p, world.TCP(8080, 80)); err != nil {
			s.Fatal(err)
		}
		if _, err := s.network("second.net", true, nil, nil).AddInterface(p, "net1", world.TCP(9000, 90)); err != nil {
			s.Fatal(err)
		}
		found := s.read()
		if len(found.Served) != 2 || !found.Served[0].Programmed || !found.Served[1].Programmed {
			s.Errorf("portmap serves %+v, want eth0 and net1, both with rules", found.Served)
		}

		if err := os.Remove(filepath.Join(s.w.CacheDir, "results", "second.net-"+p.ContainerID+"-net1")); err != nil {
			s.Fatal(err)
		}
		s.removeFrom(s.read(), func(o *portmap.Served) bool { return o.IfName == "eth0" })
		for _, f := range world.Families {
			s.w.Client.Silence(s, "tcp", addrPort(f, 8080))
		}
		for _, o := range s.read().Served {
			if o.Programmed != (o.IfName != "eth0") {
				s.Errorf("%q has rules: %t", o.IfName, o.Programmed)
			}
		}
		if s.w.Backend == world.NFTables {
			s.w.NFT(`add rule ip cni_hostport masquerading ip saddr 10.9.9.9 masquerade comment "gone before"`)
		}
		s.removeFrom(s.read(), func(*portmap.Served) bool { return true })
		if diff := cmp.Diff(before, s.w.Ruleset()); diff != "" {
			s.Errorf("ruleset after the last (-before +after):\n%s", diff)
		}
	})
}

// TestTwoInterfaces has a pod with two interfaces in one network, which share a chain
// on iptables.
func TestTwoInterfaces(t *testing.T) {
	eachBackend(t, func(s scene) {
		n, p := s.network("podnet", false, nil, nil), s.w.NewPod("web")
		for i, name := range []string{"eth0", "net1"} {
			if _, err := n.AddInterface(p, name, world.TCP(8080+i, 80)); err != nil {
				s.Fatal(err)
			}
		}
		for _, o := range s.read().Served {
			if !o.Programmed {
				s.Errorf("%s has no rules", o.IfName)
			}
		}
	})
}

// TestBothBackends wants pods on both of portmap's backends to be found on one
// node.
func TestBothBackends(t *testing.T) {
	w := world.New(t, world.Options{})
	s := scene{T: t, w: w, node: &portmap.Node{CacheDir: w.CacheDir, Run: runOn(w)}}
	s.node.Tools = portmap.Tools(s.path)
	a := s.network("podnet", false, nil, nil).MustAdd(s, "a", world.TCP(8080, 80))
	b := s.network("podnet", false, nil, world.Config{"backend": "nftables"}).MustAdd(s, "b", world.TCP(8081, 80))
	got := map[string]string{}
	for _, o := range s.read().Served {
		got[o.ContainerID] = o.Backend
	}
	want := map[string]string{a.Pod.ContainerID: "iptables", b.Pod.ContainerID: "nftables"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("backends (-want +got):\n%s", diff)
	}
}
