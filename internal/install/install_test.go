package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// node is the part of a node that an installer sees.
type node struct {
	*testing.T
	bin, conf string
	o         Options
}

const (
	bridge   = `{"cniVersion":"1.0.0","name":"podnet","plugins":[{"type":"bridge"}]}`
	portmap  = `{"cniVersion":"1.0.0","name":"podnet","plugins":[{"type":"bridge"},{"type":"portmap","snat":false,"capabilities":{"portMappings":true}}]}`
	inPlace  = `{"cniVersion":"1.0.0","name":"podnet","plugins":[{"type":"bridge"},{"type":"hostport","snat":false,"capabilities":{"portMappings":true}}]}`
	appended = `{"cniVersion":"1.0.0","name":"podnet","plugins":[{"type":"bridge"},{"type":"hostport","capabilities":{"portMappings":true}}]}`
)

// newNode returns a node with binaries to install that answer VERSION.
func newNode(t *testing.T, files map[string]string) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{T: t, bin: filepath.Join(dir, "bin"), conf: filepath.Join(dir, "net.d")}
	from := filepath.Join(dir, "image")
	for _, d := range []string{n.bin, n.conf, from} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		n.write(filepath.Join(n.conf, name), text)
	}
	n.o = Options{BinDir: n.bin, ConfDir: n.conf, Mode: Conflist}
	for _, name := range []string{"hostport", "hostportctl"} {
		path := filepath.Join(from, name)
		n.write(path, "#!/bin/sh\necho '{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.1\",\"1.0.0\",\"1.1.0\"]}'\n")
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
		n.o.Binaries = append(n.o.Binaries, path)
	}
	return n
}

func (n *node) write(path, text string) {
	n.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		n.Fatal(err)
	}
}

// files returns the files below the configuration directory.
func (n *node) files() map[string]string {
	n.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(n.conf, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, n.conf+"/")] = string(text)
		return err
	})
	if err != nil {
		n.Fatal(err)
	}
	return out
}

func (n *node) want(files map[string]string) {
	n.Helper()
	if diff := cmp.Diff(files, n.files()); diff != "" {
		n.Errorf("configuration (-want +got):\n%s", diff)
	}
}

// install runs the installer twice: the second run must have nothing to do.
func (n *node) install() *Report {
	n.Helper()
	r, err := Run(n.Context(), n.o)
	if err != nil {
		n.Fatal(err)
	}
	if again, err := Run(n.Context(), n.o); err != nil || len(again.Changes) != 0 {
		n.Errorf("a second time: %v, %+v", err, again)
	}
	return r
}

func (n *node) fails(text string) {
	n.Helper()
	before := n.files()
	if _, err := Run(n.Context(), n.o); err == nil || !strings.Contains(err.Error(), text) {
		n.Errorf("error %v, want %q", err, text)
	}
	n.want(before)
}

// uninstall runs the uninstallation on a node where these attachments hold
// ports.
func (n *node) uninstall(o UninstallOptions, holders ...*hostport.Attachment) (*Report, error) {
	o.BinDir, o.ConfDir, o.Binaries = n.bin, n.conf, []string{"hostport", "hostportctl"}
	o.Holders = func(context.Context) ([]*hostport.Attachment, error) { return holders, nil }
	if o.Clean == nil {
		o.Clean = func(context.Context) error { return nil }
	}
	return Uninstall(n.Context(), o)
}

func (n *node) binaries() []string {
	n.Helper()
	entries, err := os.ReadDir(n.bin)
	if err != nil {
		n.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestAppend(t *testing.T) {
	n := newNode(t, map[string]string{"10-podnet.conflist": bridge})
	r := n.install()
	n.want(map[string]string{"10-podnet.conflist": appended, "10-podnet.conflist.hostport-backup": bridge})
	var actions []Action
	for _, c := range r.Changes {
		actions = append(actions, c.Action)
	}
	if diff := cmp.Diff([]Action{Install, Install, Backup, Write}, actions); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if _, err := n.uninstall(UninstallOptions{}); err != nil {
		t.Fatal(err)
	}
	n.want(map[string]string{"10-podnet.conflist": bridge})
	if left := n.binaries(); len(left) != 0 {
		t.Errorf("binaries left: %v", left)
	}
}

func TestReplacePortmap(t *testing.T) {
	n := newNode(t, map[string]string{"10-podnet.conflist": portmap})
	n.fails("--replace-portmap")
	n.o.ReplacePortmap = true
	n.install()
	n.want(map[string]string{"10-podnet.conflist": inPlace, "10-podnet.conflist.hostport-backup": portmap})

	_, err := n.uninstall(UninstallOptions{BackToPortmap: true})
	if err == nil || !strings.Contains(err.Error(), "portmap is not there") {
		t.Errorf("back to a portmap that is not installed: %v", err)
	}
	n.write(filepath.Join(n.bin, "portmap"), "")
	if _, err := n.uninstall(UninstallOptions{BackToPortmap: true}); err != nil {
		t.Fatal(err)
	}
	n.want(map[string]string{"10-podnet.conflist": portmap})
	if diff := cmp.Diff([]string{"portmap"}, n.binaries()); diff != "" {
		t.Errorf("binaries (-want +got):\n%s", diff)
	}
}

func TestDryRun(t *testing.T) {
	n := newNode(t, map[string]string{"10-podnet.conflist": bridge})
	n.o.DryRun = true
	r, err := Run(n.Context(), n.o)
	if err != nil || !r.DryRun || len(r.Changes) != 4 || r.Changes[3].Content != appended {
		t.Errorf("%v, %+v", err, r)
	}
	n.want(map[string]string{"10-podnet.conflist": bridge})
	if left := n.binaries(); len(left) != 0 {
		t.Errorf("binaries: %v", left)
	}
}

func TestSettings(t *testing.T) {
	n := newNode(t, map[string]string{"10-podnet.conflist": bridge})
	n.o.Settings = []Setting{{"dataDir", `"/var/lib/hostport"`}, {"snat", "false"}}
	n.install()
	n.o.Settings = []Setting{{"snat", "true"}}
	n.install()
	want := strings.Replace(appended, `:true}}`, `:true},"dataDir":"/var/lib/hostport","snat":true}`, 1)
	n.want(map[string]string{"10-podnet.conflist": want, "10-podnet.conflist.hostport-backup": bridge})
	n.o.Settings = []Setting{{"snat", `"perhaps"`}}
	n.fails("snat")
	n.o.Settings = []Setting{{"snat", ""}, {"backend", ""}}
	n.install()
	n.want(map[string]string{"10-podnet.conflist": strings.Replace(want, `,"snat":true`, "", 1), "10-podnet.conflist.hostport-backup": bridge})
	dirs, err := DataDirs(filepath.Join(n.conf, "missing"), n.conf)
	if diff := cmp.Diff([]string{"/var/lib/hostport"}, dirs); err != nil || diff != "" {
		t.Errorf("DataDirs: %v (-want +got):\n%s", err, diff)
	}
}

// TestChoice installs into the network that the runtime uses, or the one that
// was named.
func TestChoice(t *testing.T) {
	second := strings.Replace(bridge, "podnet", "second", 1)
	files := map[string]string{
		"05-damaged.conflist":  "{",
		"06-loopback.conf":     `{"cniVersion":"1.0.0","name":"lo","type":"loopback"}`,
		"10-podnet.conflist":   bridge,
		"20-second.conflist":   second,
		"00-readme":            "not a configuration",
		"10-podnet.conflist~":  "{",
		"podnet/further.conf~": "{",
	}
	n := newNode(t, files)
	n.o.Network = "second"
	r := n.install()
	want := maps.Clone(files)
	want["20-second.conflist"] = strings.Replace(appended, "podnet", "second", 1)
	want["20-second.conflist.hostport-backup"] = second
	n.want(want)
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "05-damaged.conflist") {
		t.Errorf("warnings: %v", r.Warnings)
	}
	n.o.Network = ""
	if r := n.install(); !slices.Equal(r.Networks, []string{"podnet"}) {
		t.Errorf("networks without a name: %v", r.Networks)
	}
	n.o.Network = "third"
	n.fails(`no network configuration of the name "third"`)

	// The binaries stay for the other network.
	if _, err := n.uninstall(UninstallOptions{Network: "second"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"hostport", "hostportctl"}, n.binaries()); diff != "" {
		t.Errorf("binaries (-want +got):\n%s", diff)
	}
	if _, err := n.uninstall(UninstallOptions{}); err != nil {
		t.Fatal(err)
	}
	n.want(files)
	if left := n.binaries(); len(left) != 0 {
		t.Errorf("binaries left: %v", left)
	}
}

func TestWait(t *testing.T) {
	n := newNode(t, nil)
	n.fails("no network configuration")
	if err := os.Remove(n.conf); err != nil {
		t.Fatal(err)
	}
	n.o.Wait = true
	done := make(chan error)
	go func() {
		_, err := Run(n.Context(), n.o)
		done <- err
	}()
	time.Sleep(waitInterval)
	n.write(filepath.Join(n.conf, "10-podnet.conflist"), bridge)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	n.want(map[string]string{"10-podnet.conflist": appended, "10-podnet.conflist.hostport-backup": bridge})
	ctx, cancel := context.WithCancel(n.Context())
	cancel()
	n.o.Network = "never"
	if _, err := Run(ctx, n.o); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting after a cancellation: %v", err)
	}
}

// TestSingle converts a single-plugin configuration to a conflist, and back. A
// runtime always finds one of the two.
func TestSingle(t *testing.T) {
	const conf = `{"cniVersion":"1.0.0","name":"podnet","type":"bridge","mtu":1400}`
	n := newNode(t, map[string]string{"10-podnet.conf": conf})
	n.install()
	list, err := libcni.LoadNetworkConf(n.conf, "podnet")
	if err != nil || len(list.Plugins) != 2 || list.CNIVersion != "1.0.0" || list.Plugins[1].Network.Type != "hostport" {
		t.Errorf("list %+v, %v", list, err)
	}
	if got := n.files()["10-podnet.conf.hostport-backup"]; got != conf {
		t.Errorf("backup %q", got)
	}
	if _, err := n.uninstall(UninstallOptions{}); err != nil {
		t.Fatal(err)
	}
	n.want(map[string]string{"10-podnet.conf": conf})

	n.write(filepath.Join(n.conf, "10-podnet.conflist"), strings.Replace(bridge, "podnet", "other", 1))
	n.fails("taken by")
	n.o.Mode = Dropin
	n.fails("use the mode conflist")
}

// TestDropin moves the entry into a separate file and back.
func TestDropin(t *testing.T) {
	n := newNode(t, map[string]string{"10-podnet.conflist": portmap, "podnet/50-other.conf": `{"type":"tuning"}`})
	n.o.Mode, n.o.ReplacePortmap = Dropin, true
	r := n.install()
	if len(r.Warnings) == 0 || !strings.Contains(r.Warnings[0], "1.3") {
		t.Errorf("warnings: %v", r.Warnings)
	}
	n.want(map[string]string{
		"10-podnet.conflist": bridge, "10-podnet.conflist.hostport-backup": portmap, "podnet/50-other.conf": `{"type":"tuning"}`,
		"podnet/hostport.conf": `{"type":"hostport","snat":false,"capabilities":{"portMappings":true}}`,
	})
	list, err := libcni.LoadNetworkConf(n.conf, "podnet")
	if err != nil || len(list.Plugins) != 3 {
		t.Fatalf("list %+v, %v", list, err)
	}
	n.o.Settings = []Setting{{"dataDir", `"/run/x"`}}
	n.install()
	if dirs, err := DataDirs(n.conf); err != nil || !slices.Equal(dirs, []string{"/run/x"}) {
		t.Errorf("DataDirs: %v, %v", dirs, err)
	}

	n.o.Mode, n.o.Settings = Conflist, nil
	n.install()
	n.want(map[string]string{
		"10-podnet.conflist":                 strings.Replace(inPlace, `:true}}`, `:true},"dataDir":"/run/x"}`, 1),
		"10-podnet.conflist.hostport-backup": bridge, "podnet/50-other.conf": `{"type":"tuning"}`,
	})
	n.o.Mode = Dropin
	n.install()
	if _, err := n.uninstall(UninstallOptions{}); err != nil {
		t.Fatal(err)
	}
	n.want(map[string]string{"10-podnet.conflist": bridge, "podnet/50-other.conf": `{"type":"tuning"}`})

	n.write(filepath.Join(n.conf, "10-podnet.conflist"), strings.Replace(bridge, "{", `{"loadOnlyInlinedPlugins":true,`, 1))
	n.fails("loadOnlyInlinedPlugins")
}

// TestDropinBackToPortmap hands a network back whose main plugin never saw us.
func TestDropinBackToPortmap(t *testing.T) {
	n := newNode(t, map[string]string{"10-podnet.conflist": portmap})
	n.o.Mode, n.o.ReplacePortmap = Dropin, true
	n.install()
	n.write(filepath.Join(n.bin, "portmap"), "")
	if _, err := n.uninstall(UninstallOptions{BackToPortmap: true}); err != nil {
		t.Fatal(err)
	}
	n.want(map[string]string{"10-podnet.conflist": portmap})
	if _, err := os.Stat(filepath.Join(n.conf, "podnet")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the network's directory: %v", err)
	}
}

// TestModeAndOwner wants the file to keep both, and its backup to get them.
func TestModeAndOwner(t *testing.T) {
	n := newNode(t, map[string]string{"10-podnet.conflist": bridge})
	path := filepath.Join(n.conf, "10-podnet.conflist")
	if err := errors.Join(os.Chmod(path, 0o600), os.Chown(path, 1234, 4321)); err != nil {
		t.Fatal(err)
	}
	n.install()
	for _, p := range []string{path, path + backupSuffix} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if info.Mode() != 0o600 || st.Uid != 1234 || st.Gid != 4321 {
			t.Errorf("%s: mode %v, owner %d:%d", p, info.Mode(), st.Uid, st.Gid)
		}
	}
}

// TestSymlink wants the target of a link to be written, and the link to stay.
func TestSymlink(t *testing.T) {
	n := newNode(t, nil)
	target := filepath.Join(t.TempDir(), "cni", "podnet.json")
	n.write(target, bridge)
	link := filepath.Join(n.conf, "10-podnet.conflist")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	r := n.install()
	if to, err := os.Readlink(link); err != nil || to != target {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	n.want(map[string]string{"10-podnet.conflist": appended, "10-podnet.conflist.hostport-backup": bridge})
	if last := r.Changes[len(r.Changes)-1]; last.Action != Reload || last.Path != n.conf {
		t.Errorf("last change %+v: a runtime that watches %s would not see the new file", last, n.conf)
	}
	if entries, err := os.ReadDir(filepath.Dir(target)); err != nil || len(entries) != 1 {
		t.Errorf("beside the target: %v, %v", entries, err)
	}
}

// TestBusy replaces a plugin that is running.
func TestBusy(t *testing.T) {
	n := newNode(t, map[string]string{"10-podnet.conflist": bridge})
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(n.bin, "hostport")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	running := exec.Command(path, "60")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	n.install()
	if err := running.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the running plugin: %v", err)
	}
	_ = running.Process.Kill()
	_ = running.Wait()
	if got, err := sameContent(n.o.Binaries[0], path); err != nil || !got {
		t.Errorf("the plugin was not replaced: %v", err)
	}
}

// TestPluginDoesNotRun wants the network to be left alone: with a plugin that
// cannot be started, no pod would start.
func TestPluginDoesNotRun(t *testing.T) {
	n := newNode(t, map[string]string{"10-podnet.conflist": bridge})
	n.write(n.o.Binaries[0], "#!/bin/false\n")
	n.fails("the plugin does not run")
	n.write(n.o.Binaries[0], "#!/bin/sh\necho '{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"1.1.0\"]}'\n")
	n.fails("its cniVersion is 1.0.0")
}

// TestHeld wants an error that names the pods while they hold ports.
func TestHeld(t *testing.T) {
	n := newNode(t, map[string]string{"10-podnet.conflist": bridge})
	n.install()
	before := n.files()
	pod := &hostport.Attachment{
		Key: hostport.Key{ContainerID: "3f2a", IfName: "eth0"}, Pod: hostport.Pod{Namespace: "default", Name: "web"},
		Mappings: []hostport.Mapping{{HostPort: 8080, ContainerPort: 80, Protocol: hostport.TCP}},
	}
	_, err := n.uninstall(UninstallOptions{}, pod)
	held, ok := errors.AsType[*HeldError](err)
	if !ok || held.Removed || !strings.Contains(err.Error(), "pod default/web (container 3f2a) holds 8080/tcp") {
		t.Errorf("error %v", err)
	}
	n.want(before)

	_, err = n.uninstall(UninstallOptions{Drain: true}, pod)
	if held, ok := errors.AsType[*HeldError](err); !ok || !held.Removed {
		t.Errorf("error %v", err)
	}
	n.want(map[string]string{"10-podnet.conflist": bridge})
	if diff := cmp.Diff([]string{"hostport", "hostportctl"}, n.binaries()); diff != "" {
		t.Errorf("binaries while a pod holds a port (-want +got):\n%s", diff)
	}
	cleaned := 0
	if _, err := n.uninstall(UninstallOptions{Clean: func(context.Context) error { cleaned++; return nil }}); err != nil || cleaned != 1 {
		t.Errorf("when the pod is gone: %v, cleaned %d times", err, cleaned)
	}
	if left := n.binaries(); len(left) != 0 {
		t.Errorf("binaries left: %v", left)
	}
}

// TestStateElsewhere wants the location of the records to be remembered until
// no pod holds a port.
func TestStateElsewhere(t *testing.T) {
	n := newNode(t, map[string]string{"10-podnet.conflist": bridge})
	n.o.Settings = []Setting{{"dataDir", `"/var/lib/hostport"`}}
	n.install()
	pod := &hostport.Attachment{Network: "podnet"}
	for range 2 {
		_, err := n.uninstall(UninstallOptions{Drain: true}, pod)
		if held, ok := errors.AsType[*HeldError](err); !ok || !held.Removed {
			t.Errorf("error %v", err)
		}
		if dirs, err := DataDirs(n.conf); err != nil || !slices.Equal(dirs, []string{"/var/lib/hostport"}) {
			t.Errorf("DataDirs: %v, %v", dirs, err)
		}
	}
	if _, err := n.uninstall(UninstallOptions{}); err != nil {
		t.Fatal(err)
	}
	n.want(map[string]string{"10-podnet.conflist": bridge})
	if dirs, err := DataDirs(n.conf); err != nil || len(dirs) != 0 {
		t.Errorf("DataDirs: %v, %v", dirs, err)
	}
}

// TestOtherNetworkHeld removes the plugin from one network although pods of
// another hold ports.
func TestOtherNetworkHeld(t *testing.T) {
	n := newNode(t, map[string]string{"10-podnet.conflist": bridge})
	n.install()
	_, err := n.uninstall(UninstallOptions{Network: "podnet"}, &hostport.Attachment{Network: "renamed"})
	if held, ok := errors.AsType[*HeldError](err); !ok || !held.Removed {
		t.Errorf("error %v", err)
	}
	n.want(map[string]string{"10-podnet.conflist": bridge})
	if diff := cmp.Diff([]string{"hostport", "hostportctl"}, n.binaries()); diff != "" {
		t.Errorf("binaries (-want +got):\n%s", diff)
	}
}

// TestAtOnce runs many installers while a runtime reads: it always finds one
// complete configuration, and all installers agree.
func TestAtOnce(t *testing.T) {
	n := newNode(t, map[string]string{"10-podnet.conflist": bridge})
	stop := make(chan struct{})
	read := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				read <- nil
				return
			default:
			}
			list, err := libcni.LoadNetworkConf(n.conf, "podnet")
			if err != nil || len(list.Plugins) < 1 {
				read <- fmt.Errorf("a runtime reads %v, %w", list, err)
				return
			}
		}
	}()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := Run(n.Context(), n.o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(stop)
	if err := <-read; err != nil {
		t.Error(err)
	}
	n.want(map[string]string{"10-podnet.conflist": appended, "10-podnet.conflist.hostport-backup": bridge})
	if diff := cmp.Diff([]string{"hostport", "hostportctl"}, n.binaries()); diff != "" {
		t.Errorf("binaries (-want +got):\n%s", diff)
	}
}
