package containerd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hostport-cni/hostport/test/world"
)

// podman is Debian's Podman, 4.3, with CNI networks, on the node of a World.
type podman struct {
	daemon // for what asks a port; it does not run
	dir    string
	rootfs string
	args   []string
}

// podmanNetwork is the network of Podman's containers. It does not meet the
// other one on the node.
const podmanNetwork = "podman-net"

func newPodman(t *testing.T, w *world.World) *podman {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib", "podman-")
	if err != nil {
		t.Fatal(err)
	}
	p := &podman{daemon: daemon{w: w}, dir: dir, rootfs: filepath.Join(dir, "rootfs")}
	networks := filepath.Join(dir, "net.d")
	conflist := w.NewNetwork(world.NetworkOptions{
		Name: podmanNetwork, CNIVersion: "0.4.0", Second: true, MainConfig: masquerade(w.Backend),
	}).Conflist
	peer, err := os.ReadFile(program("peer"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(networks, 0o755), os.Mkdir(p.rootfs, 0o755)); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{
		filepath.Join(networks, podmanNetwork+".conflist"): conflist,
		filepath.Join(p.rootfs, "peer"):                    peer,
		p.config():                                         fmt.Appendf(nil, podmanConfiguration, w.PluginDir, networks),
	} {
		if err := os.WriteFile(path, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.args = []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join("/run", filepath.Base(dir)), "--storage-driver", "vfs"}
	t.Cleanup(func() {
		p.must(t, "rm", "--all", "--force", "--time", "0")
		os.RemoveAll(dir)
	})
	return p
}

func (p *podman) config() string { return filepath.Join(p.dir, "containers.conf") }

const podmanConfiguration = `[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "cni"
cni_plugin_dirs = [%q]
network_config_dir = %q
`

func (p *podman) run(args ...string) (string, error) {
	cmd := exec.Command("podman", append(p.args, args...)...)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+p.config(), "PATH="+newest.path(p.w))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := p.w.Node.Try(cmd.Start); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("podman %s: %w\n%s", strings.Join(args, " "), err, &out)
	}
	return strings.TrimSpace(out.String()), nil
}

func (p *podman) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := p.run(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// start runs a container that serves port 80 over TCP and UDP.
func (p *podman) start(t *testing.T, name string, publish ...string) error {
	t.Helper()
	args := []string{"run", "--detach", "--name", name, "--network", podmanNetwork, "--cgroup-parent", "/" + os.Getenv(groupKey)}
	for _, m := range publish {
		args = append(args, "--publish", m)
	}
	if _, err := p.run(append(args, "--rootfs", p.rootfs, "/peer", "-name", name, "-tcp", "80", "-udp", "80")...); err != nil {
		return err
	}
	p.wait(t, name)
	return nil
}

func (p *podman) mustStart(t *testing.T, name string, publish ...string) {
	t.Helper()
	if err := p.start(t, name, publish...); err != nil {
		t.Fatal(err)
	}
}

// wait waits until the container answers, inside itself.
func (p *podman) wait(t *testing.T, name string) {
	t.Helper()
	namespace := p.w.NetnsAt(name, p.must(t, "inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name))
	if err := errors.Join(answers(namespace, "tcp", "80"), answers(namespace, "udp", "80")); err != nil {
		t.Fatalf("container %s: %v", name, err)
	}
}

// refused starts a container that must not come up, and reads what Podman says.
func (p *podman) refused(t *testing.T, publish string, owners ...string) {
	t.Helper()
	err := p.start(t, "late", publish)
	if err == nil || !slices.ContainsFunc(owners, func(o string) bool { return strings.Contains(err.Error(), o+" (container ") }) {
		t.Errorf("a container with the taken port %s: %v, want a refusal that names one of %q", publish, err, owners)
	}
	p.must(t, "rm", "--force", "late")
}

func TestPodman(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			w := world.New(t, world.Options{Backend: b})
			p := newPodman(t, w)
			expectWeb := func() {
				t.Helper()
				p.reaches(t, "tcp", 8080, "web")
				p.reaches(t, "udp", 8080, "web")
				local := netip.AddrPortFrom(world.V4.Loopback(), 8080)
				if got := w.Node.Ask(t, "tcp", local); got.Server != "web" {
					t.Errorf("%s: answer of %s", local, got.Server)
				}
			}
			p.mustStart(t, "first", "80:80")
			p.must(t, "rm", "--force", "--time", "0", "first")
			before := w.Ruleset()

			p.mustStart(t, "web", "8080:80", "8080:80/udp")
			expectWeb()
			p.refused(t, "8080:80", "pod web")
			expectWeb()

			// A container's restart is another namespace, and another address.
			p.must(t, "restart", "--time", "0", "web")
			p.wait(t, "web")
			expectWeb()
			// Its process dies, and Podman's monitor cleans up.
			p.must(t, "kill", "web")
			p.must(t, "wait", "web")
			eventually(t, "port 8080 is free", func() error {
				if rules := fmt.Sprintf("%+v", w.Ruleset()); strings.Contains(rules, "8080") {
					return errors.New(rules)
				}
				return nil
			})
			p.must(t, "start", "web")
			p.wait(t, "web")
			expectWeb()
			// A reload of the firewall, and Podman's own cure for it.
			w.Node.Command("nft", "flush", "ruleset")
			p.must(t, "network", "reload", "web")
			expectWeb()

			// One port on two addresses of the node.
			p.mustStart(t, "one", world.V4.Node().String()+":9090:80")
			p.mustStart(t, "two", world.V4.NodeSecond().String()+":9090:80")
			p.reachesAt(t, "tcp", netip.AddrPortFrom(world.V4.Node(), 9090), "one")
			p.reachesAt(t, "tcp", netip.AddrPortFrom(world.V4.NodeSecond(), 9090), "two")
			p.refused(t, "9090:80", "pod one", "pod two")

			p.must(t, "rm", "--force", "--time", "0", "web", "one", "two")
			p.expectRuleset(t, before)
		})
	}
}

// TestTwoRuntimes has containerd and Podman on one node, with one plugin and one
// state: a port has one owner, whoever made it, and a GC of one runtime's
// network does not touch the other's containers.
func TestTwoRuntimes(t *testing.T) {
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			w := world.New(t, world.Options{Backend: b})
			network := w.NewNetwork(world.NetworkOptions{})
			d := startDaemon(t, newest, w, network.Conflist)
			p := newPodman(t, w)
			p.mustStart(t, "first") // has bridge make its base, which stays
			p.must(t, "rm", "--force", "--time", "0", "first")
			before := w.Ruleset()

			inPod := d.runPod(t, pod{name: "in-pod", ports: []*cri.PortMapping{tcp(81, 80)}, tcp: "80"})
			p.mustStart(t, "in-podman", "8080:80")
			both := func() {
				t.Helper()
				d.reaches(t, "tcp", 81, "in-pod")
				d.reaches(t, "tcp", 8080, "in-podman")
			}
			both()
			p.refused(t, "81:80", "pod default/in-pod")
			scenes{d}.expectRefusal(t, pod{name: "late", ports: []*cri.PortMapping{tcp(8080, 80)}, tcp: "80"}, 8080, "pod in-podman (container ")
			both()

			// Nothing is valid in one network, then in the other.
			other := w.NewNetwork(world.NetworkOptions{Name: podmanNetwork, Second: true})
			if err := other.GC(); err != nil {
				t.Fatal(err)
			}
			d.reaches(t, "tcp", 81, "in-pod")
			d.silent(t, 8080)
			p.must(t, "restart", "--time", "0", "in-podman")
			p.wait(t, "in-podman")
			both()
			if err := network.GC(); err != nil {
				t.Fatal(err)
			}
			d.silent(t, 81)
			d.reaches(t, "tcp", 8080, "in-podman")

			d.remove(t, inPod)
			p.must(t, "rm", "--force", "--time", "0", "in-podman")
			d.expectRuleset(t, before)
		})
	}
}
