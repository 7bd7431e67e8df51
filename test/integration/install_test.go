package integration

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/install"
	"github.com/hostport-cni/hostport/test/world"
)

// installer is an operator on a node whose runtime is cnitool.
type installer struct {
	*testing.T
	w       *world.World
	cnitool string
	image   string // where hostport and hostportctl come from
	bin     string
	conf    string
}

// newInstaller makes a node with a bridge network that portmap serves.
func newInstaller(t *testing.T, b world.Backend) *installer {
	t.Helper()
	w := world.New(t, world.Options{Backend: b})
	i := &installer{T: t, w: w, conf: w.ConfDir, bin: t.TempDir(), image: t.TempDir()}
	for _, name := range []string{"hostport", "hostportctl"} {
		i.copy(name, i.image)
	}
	for _, name := range []string{"bridge", "host-local", "portmap"} {
		i.copy(name, i.bin)
	}
	n := w.NewNetwork(world.NetworkOptions{Type: "portmap"})
	i.write("10-podnet.conflist", n.Conflist)
	return i
}

func (i *installer) copy(name, dir string) {
	i.Helper()
	program, err := os.ReadFile(filepath.Join(i.w.PluginDir, name))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name), program, 0o755)
	}
	if err != nil {
		i.Fatal(err)
	}
}

func (i *installer) write(name string, text []byte) {
	i.Helper()
	if err := os.WriteFile(filepath.Join(i.conf, name), text, 0o644); err != nil {
		i.Fatal(err)
	}
}

func (i *installer) conflist() string {
	i.Helper()
	text, err := os.ReadFile(filepath.Join(i.conf, "10-podnet.conflist"))
	if err != nil {
		i.Fatal(err)
	}
	return string(text)
}

// start starts a program on the node.
func (i *installer) start(env []string, program string, args ...string) (string, error) {
	var out strings.Builder
	cmd := exec.Command(program, args...)
	cmd.Env = append([]string{"PATH=" + i.w.ToolDir}, env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := i.w.Node.Try(cmd.Start); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// ctl runs hostportctl as it was unpacked.
func (i *installer) ctl(args ...string) (string, error) {
	args = append(args, "--bin-dir", i.bin, "--conf-dir", i.conf)
	return i.start(nil, filepath.Join(i.image, "hostportctl"), args...)
}

func (i *installer) mustCtl(args ...string) string {
	i.Helper()
	out, err := i.ctl(args...)
	if err != nil {
		i.Fatalf("hostportctl %v: %v\n%s", args, err, out)
	}
	return out
}

// runtime has cnitool call the chain for a pod with a host port.
func (i *installer) runtime(verb string, p *world.Pod, hostPort int) {
	i.Helper()
	mappings, err := json.Marshal(map[string]any{"portMappings": []world.Mapping{world.TCP(hostPort, 80)}})
	if err != nil {
		i.Fatal(err)
	}
	out, err := i.start([]string{
		"NETCONFPATH=" + i.conf, "CNI_PATH=" + i.bin, "CNI_IFNAME=eth0", "CAP_ARGS=" + string(mappings),
		"CNI_ARGS=" + p.Args(),
	}, i.cnitool, verb, "podnet", p.Path)
	if err != nil {
		i.Fatalf("cnitool %s: %v\n%s", verb, err, out)
	}
}

// privateCache keeps cnitool's cache, which has a fixed place, off the machine.
// The test process has mounts of its own.
func privateCache(t *testing.T) {
	t.Helper()
	const dir = "/var/lib/cni"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("cache", dir, "tmpfs", 0, "mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// TestInstall moves a network from portmap to hostport and back, with cnitool as
// the runtime, in both modes and with both backends.
func TestInstall(t *testing.T) {
	privateCache(t)
	cnitool := world.Build(t, "github.com/containernetworking/cni/cnitool")
	for _, b := range []world.Backend{world.IptablesNFT, world.NFTables} {
		for _, mode := range []install.Mode{install.Conflist, install.Dropin} {
			t.Run(string(b)+"/"+string(mode), func(t *testing.T) {
				i := newInstaller(t, b)
				i.cnitool = cnitool
				i.moveAndBack(mode)
			})
		}
	}
}

func (i *installer) moveAndBack(mode install.Mode) {
	before := i.conflist()
	serve := func(name string, port int) *world.Pod {
		i.Helper()
		p := i.w.NewPod(name)
		p.Serve("tcp", 80)
		i.runtime("add", p, port)
		got := i.w.Client.Ask(i, "tcp", netip.AddrPortFrom(world.V4.Node(), uint16(port)))
		if got.Server != name {
			i.Errorf("port %d is answered by %s, want %s", port, got.Server, name)
		}
		return p
	}
	old := serve("old", 8080)
	i.runtime("del", old, 8080)
	clean := i.w.Ruleset()

	args := []string{"install", "--replace-portmap", "--mode", string(mode), "--config", "dataDir=" + i.w.DataDir}
	moved := serve("moved", 8084)
	if out := i.mustCtl(append(args, "--dry-run")...); !strings.Contains(out, "adopted ") || !strings.Contains(out, "nothing was changed") {
		i.Errorf("a dry run: %s", out)
	}
	var done struct {
		Networks []string
		Adoption struct{ Adopted []struct{ Mappings []any } }
	}
	if out := i.mustCtl(append(args, "-o", "json")...); json.Unmarshal([]byte(out), &done) != nil ||
		len(done.Networks) != 1 || len(done.Adoption.Adopted) != 1 || len(done.Adoption.Adopted[0].Mappings) != 1 {
		i.Errorf("as JSON: %s", out)
	}
	if out := i.mustCtl(args...); !strings.Contains(out, "nothing to do") {
		i.Errorf("a second time: %s", out)
	}
	i.runtime("del", moved, 8084)
	pod := serve("pod", 8081)
	if out := i.mustCtl("uninstall", "--dry-run", "--back-to-portmap"); !strings.Contains(out, "holds 8081/tcp") {
		i.Errorf("a dry run: %s", out)
	}
	out, err := i.ctl("uninstall")
	if err == nil || !strings.Contains(out, "holds 8081/tcp") {
		i.Errorf("uninstall while a pod holds a port: %v\n%s", err, out)
	}
	i.runtime("check", pod, 8081)
	i.runtime("gc", pod, 8081) // deletes all that the cache has, and says nothing about who is valid
	i.w.Client.Silence(i, "tcp", netip.AddrPortFrom(world.V4.Node(), 8081))
	i.runtime("del", pod, 8081)
	kept := serve("kept", 8083)
	lost := i.w.Client.Watch(i, netip.AddrPortFrom(world.V4.Node(), 8083))
	i.mustCtl("uninstall", "--back-to-portmap")
	if errs := lost(); len(errs) > 0 {
		i.Errorf("%d connections to a pod that was handed back failed: %v", len(errs), errs[0])
	}
	if got := i.w.Client.Ask(i, "tcp", netip.AddrPortFrom(world.V4.Node(), 8083)); got.Server != "kept" {
		i.Errorf("the port of a pod that was handed back is answered by %q", got.Server)
	}
	if r := i.w.Ruleset(); strings.Contains(r.IptablesNFT+r.NFTables, "HP-") || strings.Contains(r.NFTables, "inet hostport") {
		i.Errorf("rules of hostport's are left:\n%+v", r)
	}
	i.runtime("del", kept, 8083)
	if diff := cmp.Diff(before, i.conflist()); diff != "" {
		i.Errorf("conflist (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(clean.Sorted(), i.w.Ruleset().Sorted()); diff != "" { // portmap made its chains again
		i.Errorf("ruleset (-before +after):\n%s", diff)
	}
	for _, path := range []string{i.w.DataDir, filepath.Join(i.bin, "hostport"), filepath.Join(i.bin, "hostportctl")} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			i.Errorf("%s is left: %v", path, err)
		}
	}
	i.runtime("del", serve("new", 8082), 8082)
}

// TestInstallReadOnly fails with what to do, and changes nothing, where a
// directory cannot be written.
func TestInstallReadOnly(t *testing.T) {
	i := newInstaller(t, world.IptablesNFT)
	before := i.conflist()
	for _, dir := range []string{i.bin, i.conf} {
		if err := errors.Join(unix.Mount(dir, dir, "", unix.MS_BIND, ""),
			unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
			t.Fatal(err)
		}
		out, err := i.ctl("install", "--replace-portmap")
		if err == nil || !strings.Contains(out, "read-only file system") || !strings.Contains(out, "--conf-dir") {
			t.Errorf("read-only %s: %v\n%s", dir, err, out)
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, i.conflist()); diff != "" {
		t.Errorf("conflist (-before +after):\n%s", diff)
	}
	i.mustCtl("install", "--replace-portmap")
}

// TestInstallKilled kills the installer at each point, both ways. A runtime finds
// the old or the new configuration, and the next run finishes.
func TestInstallKilled(t *testing.T) {
	w := world.New(t, world.Options{})
	faulty := world.Build(t, "github.com/hostport-cni/hostport/cmd/hostportctl", "-tags", "faultpoints")
	for _, mode := range []install.Mode{install.Conflist, install.Dropin} {
		for _, verb := range []string{"install", "uninstall"} {
			t.Run(string(mode)+"/"+verb, func(t *testing.T) { killEverywhere(t, w, faulty, mode, verb) })
		}
	}
}

func killEverywhere(t *testing.T, w *world.World, faulty string, mode install.Mode, verb string) {
	const old = `{"cniVersion":"1.0.0","name":"podnet","plugins":[{"type":"bridge"},{"type":"portmap","capabilities":{"portMappings":true}}]}`
	killed := 0
	for _, point := range install.Points() {
		i := &installer{T: t, w: w, conf: t.TempDir(), bin: t.TempDir(), image: filepath.Dir(faulty)}
		i.copy("hostport", i.image)
		i.copy("portmap", i.bin)
		i.write("10-podnet.conflist", []byte(old))
		args := []string{"install", "--replace-portmap", "--mode", string(mode)}
		if verb == "uninstall" {
			i.mustCtl(args...)
			args = []string{"uninstall", "--back-to-portmap"}
		}
		out, err := i.start([]string{"HOSTPORT_FAULT=" + point}, filepath.Join(i.image, "hostportctl"),
			append(args, "--bin-dir", i.bin, "--conf-dir", i.conf)...)
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Sys().(syscall.WaitStatus).Signaled() {
			killed++
		} else if err != nil {
			t.Fatalf("%s: %v\n%s", point, err, out)
		}
		// A main plugin comes first and host ports are served at any time.
		list, err := libcni.LoadNetworkConf(i.conf, "podnet")
		if err != nil || len(list.Plugins) < 2 || list.Plugins[0].Network.Type != "bridge" {
			t.Errorf("%s: a runtime finds %+v, %v", point, list, err)
		}
		i.mustCtl(args...)
		i.finished(point, mode, verb, old)
	}
	if killed < 3 {
		t.Errorf("killed at %d points", killed)
	}
}

// finished compares what is left with a run that nobody killed.
func (i *installer) finished(point string, mode install.Mode, verb, old string) {
	i.Helper()
	var files []string
	for _, dir := range []string{i.bin, i.conf} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			i.Fatal(err)
		}
		for _, e := range entries {
			files = append(files, e.Name())
		}
	}
	want := []string{"portmap", "10-podnet.conflist"}
	types := []string{"bridge", "portmap"}
	if verb == "install" {
		types[1] = "hostport"
		want = []string{"hostport", "hostportctl", "portmap", "10-podnet.conflist", "10-podnet.conflist.hostport-backup"}
		if mode == install.Dropin {
			want = append(want, "podnet")
		}
	}
	if diff := cmp.Diff(want, files); diff != "" {
		i.Errorf("%s: files (-want +got):\n%s", point, diff)
	}
	list, err := libcni.LoadNetworkConf(i.conf, "podnet")
	if err != nil {
		i.Fatal(err)
	}
	var got []string
	for _, p := range list.Plugins {
		got = append(got, p.Network.Type)
	}
	if diff := cmp.Diff(types, got); diff != "" {
		i.Errorf("%s: plugins (-want +got):\n%s", point, diff)
	}
	if verb == "uninstall" && i.conflist() != old {
		i.Errorf("%s: conflist %s", point, i.conflist())
	}
}
