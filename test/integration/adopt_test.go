package integration

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/answer"
	"github.com/hostport-cni/hostport/test/world"
)

// adopter is a node whose pods portmap serves, and the same network with
// hostport in its place.
type adopter struct {
	*testing.T
	w         *world.World
	before    world.Ruleset
	old, next *world.Network
}

// newAdopter makes a node. portmapBackend is portmap's own: iptables in the
// variant of b, or nftables; ours is that of the entry in its place.
func newAdopter(t *testing.T, b world.Backend, portmapBackend, ours string) *adopter {
	w := world.New(t, world.Options{Backend: b})
	w.InstallVariants()
	return &adopter{
		T: t, w: w, before: w.Ruleset(),
		old:  w.NewNetwork(world.NetworkOptions{Type: "portmap", Hostport: world.Config{"backend": portmapBackend, "snat": true}}),
		next: w.NewNetwork(world.NetworkOptions{Hostport: world.Config{"backend": ours}}),
	}
}

func (a *adopter) add(n *world.Network, name string, mappings ...world.Mapping) *world.Attachment {
	a.Helper()
	at := n.MustAdd(a, name, mappings...)
	for _, m := range mappings {
		at.Pod.Serve(m.Protocol, m.ContainerPort)
	}
	return at
}

func (a *adopter) reaches(protocol string, port uint16, server string) {
	a.Helper()
	for _, f := range world.Families {
		if got := a.w.Client.Ask(a, protocol, netip.AddrPortFrom(f.Node(), port)); got.Server != server {
			a.Errorf("%s/%d: answered by %q, want %q", protocol, port, got.Server, server)
		}
	}
}

// adopt runs hostportctl adopt and wants an exit status.
func (a *adopter) adopt(status int, args ...string) string {
	a.Helper()
	conflist := filepath.Join(a.w.ConfDir, "10-podnet.conflist")
	if err := os.WriteFile(conflist, a.next.Conflist, 0o600); err != nil {
		a.Fatal(err)
	}
	out := a.w.Ctl(append([]string{"adopt", "--cache-dir", a.w.CacheDir, "--conf-dir", a.w.ConfDir}, args...)...)
	text := string(out.Stdout) + string(out.Stderr)
	if out.ExitCode != status {
		a.Errorf("hostportctl adopt %v: exit status %d, want %d\n%s", args, out.ExitCode, status, text)
	}
	return text
}

// portmapRules are all rules that name portmap's chains or table.
func (a *adopter) portmapRules() string {
	a.Helper()
	r := a.w.Ruleset()
	all := r.IptablesNFT + r.Ip6tablesNFT + r.IptablesLegacy + r.Ip6tablesLegacy + r.NFTables
	var left []string
	for line := range strings.Lines(all) {
		if strings.Contains(line, "CNI-HOSTPORT-") || strings.Contains(line, "CNI-DN-") || strings.Contains(line, "cni_hostport") {
			left = append(left, strings.TrimSpace(line))
		}
	}
	return strings.Join(left, "\n")
}

// flows opens a UDP flow and a TCP connection in each family, and returns a
// function that checks that they go on.
func (a *adopter) flows(udp, tcp uint16) (goesOn func()) {
	a.Helper()
	type opened struct {
		f        world.Family
		udp, tcp *answer.Flow
		server   answer.Answer
	}
	var all []opened
	for _, f := range world.Families {
		o := opened{f: f}
		var err, err2 error
		o.udp, err = a.w.Client.Dial("udp", netip.AddrPort{}, netip.AddrPortFrom(f.Node(), udp), 0)
		o.tcp, err2 = a.w.Client.Dial("tcp", netip.AddrPort{}, netip.AddrPortFrom(f.Node(), tcp), answer.Timeout)
		if err := errors.Join(err, err2); err != nil {
			a.Fatal(err)
		}
		a.Cleanup(o.udp.Close)
		a.Cleanup(o.tcp.Close)
		o.server, err = o.udp.Ask(answer.Timeout)
		if err := errors.Join(err, o.tcp.Echoes("before")); err != nil {
			a.Fatal(err)
		}
		all = append(all, o)
	}
	return func() {
		a.Helper()
		for _, o := range all {
			o.udp.Drain()
			if got, err := o.udp.Ask(answer.Timeout); err != nil || got != o.server {
				a.Errorf("%s: the UDP flow is answered %+v, %v, want %+v as before", o.f, got, err, o.server)
			}
			if err := o.tcp.Echoes("after"); err != nil {
				a.Errorf("%s: the TCP connection: %v", o.f, err)
			}
		}
	}
}

// TestAdopt moves a node with running pods from portmap to hostport.
func TestAdopt(t *testing.T) {
	for _, tc := range []struct {
		name    string
		backend world.Backend
		portmap string
		ours    string
	}{
		{"iptables-nft", world.IptablesNFT, "iptables", ""},
		{"iptables-nft to nftables", world.IptablesNFT, "iptables", "nftables"},
		{"iptables-legacy", world.IptablesLegacy, "iptables", ""},
		{"nftables", world.IptablesNFT, "nftables", ""},
		{"nftables to nftables", world.IptablesNFT, "nftables", "nftables"},
	} {
		if tc.portmap == "nftables" && !world.NFTRestores() {
			continue // portmap refuses nft before 1.0.1
		}
		t.Run("from "+tc.name, func(t *testing.T) {
			t.Parallel()
			a := newAdopter(t, tc.backend, tc.portmap, tc.ours)
			web := a.add(a.old, "web", world.TCP(8080, 80))
			dns := a.add(a.old, "dns", world.UDP(5353, 53))
			dead := a.add(a.old, "dead", world.TCP(8081, 80))
			dead.Pod.Close()
			lost := a.w.Client.Watch(a, netip.AddrPortFrom(world.V4.Node(), 8080), netip.AddrPortFrom(world.V6.Node(), 8080))
			echo := a.old.MustAdd(a, "echo", world.TCP(7777, 7))
			echo.Pod.Echo(7)
			goesOn := a.flows(5353, 7777)

			rules := a.w.Ruleset()
			a.adopt(0, "--dry-run")
			if rules != a.w.Ruleset() {
				t.Error("a dry run changed rules")
			}
			text := a.adopt(0, "--network", "podnet")
			if out := a.w.Ctl("list", "-o", "wide"); tc.ours != "" && strings.Count(string(out.Stdout), tc.ours) < 3 {
				t.Errorf("not all pods are on the configured backend:\n%s", out.Stdout)
			}
			for _, want := range []string{"adopted pod default/web", "adopted pod default/dns", "removed the rules of pod default/dead"} {
				if !strings.Contains(text, want) {
					t.Errorf("hostportctl adopt does not say %q:\n%s", want, text)
				}
			}
			if left := a.portmapRules(); left != "" {
				t.Errorf("portmap's rules are left:\n%s", left)
			}
			adopted := a.w.Ruleset()
			a.adopt(0)
			if diff := cmp.Diff(adopted, a.w.Ruleset()); diff != "" {
				t.Errorf("adopting again changed rules (-once +twice):\n%s", diff)
			}
			a.reaches("tcp", 8080, "web")
			a.reaches("udp", 5353, "dns")
			goesOn()
			if errs := lost(); len(errs) > 0 {
				t.Errorf("%d connections to a pod that was adopted failed: %v", len(errs), errs[0])
			}

			refused, err := a.next.Add(a.w.NewPod("refused"), world.TCP(8080, 81))
			if err == nil || !strings.Contains(err.Error(), web.Pod.ContainerID) {
				t.Errorf("the port of an adopted pod: %v, want its owner named", err)
			}
			refused.MustDel(t)
			if out := a.w.Ctl("check"); out.ExitCode != 0 {
				t.Errorf("hostportctl check: %s%s", out.Stdout, out.Stderr)
			}
			// containerd sends DEL with the configuration of now.
			for _, at := range []*world.Attachment{web, dns, echo, dead} {
				c := *at
				c.Network = a.next
				c.MustDel(t)
			}
			next := a.add(a.next, "next", world.TCP(8081, 80))
			a.reaches("tcp", 8081, "next")
			next.MustDel(t)
			if r := a.w.Ruleset(); r.Sorted() != a.before.Sorted() {
				t.Errorf("rules are left:\n%+v", r)
			}
		})
	}
}

// TestAdoptByItself has nobody run hostportctl: the first ADD on a node without
// state adopts its network's pods.
func TestAdoptByItself(t *testing.T) {
	const cache = "/var/lib/cni" // where the plugin looks
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("cache", cache, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(cache, unix.MNT_DETACH) }()
	for _, tc := range []struct{ portmap, ours string }{
		{"iptables", "iptables"}, {"iptables", "nftables"}, {"nftables", "iptables"}, {"nftables", "nftables"},
	} {
		if tc.portmap == "nftables" && !world.NFTRestores() {
			continue // portmap refuses nft before 1.0.1
		}
		t.Run("from "+tc.portmap+" to "+tc.ours, func(t *testing.T) {
			a := newAdopter(t, world.IptablesNFT, tc.portmap, tc.ours)
			web := a.add(a.old, "web", world.TCP(8080, 80))
			copyCache := func() {
				if err := os.CopyFS(filepath.Join(cache, "results"), os.DirFS(filepath.Join(a.w.CacheDir, "results"))); err != nil {
					t.Fatal(err)
				}
			}
			echo := a.old.MustAdd(a, "echo", world.TCP(7777, 7), world.UDP(5353, 53))
			echo.Pod.Echo(7)
			echo.Pod.Serve("udp", 53)
			copyCache()
			goesOn := a.flows(5353, 7777)
			other := a.add(a.next, "other", world.TCP(8081, 80))
			goesOn()
			if out := a.w.Ctl("list", "-o", "wide"); strings.Count(string(out.Stdout), tc.ours) < 3 {
				t.Errorf("not all pods are on the configured backend:\n%s", out.Stdout)
			}
			if left := a.portmapRules(); left != "" {
				t.Errorf("portmap's rules are left:\n%s", left)
			}
			a.reaches("tcp", 8080, "web")
			a.reaches("tcp", 8081, "other")
			for _, at := range []*world.Attachment{web, echo} {
				later := *at
				later.Network = a.next
				later.MustDel(t)
			}
			other.MustDel(t)
			if r := a.w.Ruleset(); r.Sorted() != a.before.Sorted() {
				t.Errorf("rules are left:\n%+v", r)
			}
			if err := os.RemoveAll(filepath.Join(cache, "results")); err != nil {
				t.Fatal(err)
			}
		})
	}
}
