package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/test/world"
)

// conflist is a configuration with the plugin's entry, whose further keys are given.
func conflist(name, keys string) string {
	return `{"cniVersion":"1.0.0","name":"` + name + `","plugins":[{"type":"bridge"},{"type":"hostport"` + keys + `}]}`
}

// TestFind wants the state directory to be that of the conflists.
func TestFind(t *testing.T) {
	const ours = `,"dataDir":"/var/lib/hostport"`
	for _, tc := range []struct {
		name, given string
		files       map[string]string
		want        string
		words       []string // of the error
	}{
		{name: "no directory", want: netconf.DefaultDataDir},
		{name: "no conflist of ours", files: map[string]string{
			"10-podnet.conflist": `{"cniVersion":"1.0.0","name":"podnet","plugins":[{"type":"bridge","dataDir":"/var/lib/cni"}]}`,
		}, want: netconf.DefaultDataDir},
		{name: "a conflist without the key", files: map[string]string{"10-podnet.conflist": conflist("podnet", "")}, want: netconf.DefaultDataDir},
		{name: "a conflist with it", files: map[string]string{"10-podnet.conflist": conflist("podnet", ours)}, want: "/var/lib/hostport"},
		{name: "an entry in a file beside the conflist", files: map[string]string{
			"10-podnet.conflist":      `{"cniVersion":"1.0.0","name":"podnet","plugins":[{"type":"bridge"}]}`,
			"podnet/50-hostport.conf": `{"type":"hostport"` + ours + `}`,
		}, want: "/var/lib/hostport"},
		{name: "several that agree", files: map[string]string{
			"10-podnet.conflist": conflist("podnet", ours), "20-second.conflist": conflist("second", ours),
		}, want: "/var/lib/hostport"},
		{name: "two that do not", files: map[string]string{
			"10-podnet.conflist": conflist("podnet", ours), "20-second.conflist": conflist("second", `,"dataDir":"/run/other"`),
		}, words: []string{"/var/lib/hostport", "/run/other", "--data-dir"}},
		{name: "two of which one leaves it out", files: map[string]string{
			"10-podnet.conflist": conflist("podnet", ours), "20-second.conflist": conflist("second", ""),
		}, words: []string{"/var/lib/hostport", netconf.DefaultDataDir, "--data-dir"}},
		{name: "two that do not, and it was given", given: "/run/given", files: map[string]string{
			"10-podnet.conflist": conflist("podnet", ours), "20-second.conflist": conflist("second", ""),
		}, want: "/run/given"},
		{name: "one that is no JSON beside ours", files: map[string]string{
			"05-damaged.conflist": `{"cniVersion":`, "10-podnet.conflist": conflist("podnet", ours),
		}, want: "/var/lib/hostport"},
		{name: "one that cannot be opened beside ours", files: map[string]string{
			"05-directory.conflist/file": "", "10-podnet.conflist": conflist("podnet", ours),
		}, want: "/var/lib/hostport"},
		{name: "nothing but one that is no JSON", files: map[string]string{"05-damaged.conflist": `{`}, want: netconf.DefaultDataDir},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := where{dir: tc.given, conf: filepath.Join(t.TempDir(), "net.d")}
			for name, text := range tc.files {
				path := filepath.Join(w.conf, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			err := w.find()
			if (err != nil) != (tc.words != nil) || w.dir != tc.want {
				t.Errorf("find: %q, %v, want %q", w.dir, err, tc.want)
			}
			for _, word := range tc.words {
				if err != nil && !strings.Contains(err.Error(), word) {
					t.Errorf("the error does not name %s: %v", word, err)
				}
			}
		})
	}
}

// found runs every command that needs the state without saying where it is: at the
// place that the conflists name, where there are none, and where there are two. No
// directory is made, and no rule is lost.
func found(c tool) {
	n := c.w.NewNetwork(world.NetworkOptions{})
	n.MustAdd(c, "web", world.TCP(8080, 80))
	before := c.w.Ruleset().WithoutPast()
	c.w.DataDir = "" // not given
	conf := filepath.Join(c.w.ConfDir, "net.d")
	write := func(name, text string) {
		c.Helper()
		if err := errors.Join(os.MkdirAll(conf, 0o755), os.WriteFile(filepath.Join(conf, name), []byte(text), 0o600)); err != nil {
			c.Fatal(err)
		}
	}
	wants := func(status map[string]int, text string) {
		c.Helper()
		for command, code := range status {
			c.fails(code, text, command, "--conf-dir", conf)
		}
		if after := c.w.Ruleset().WithoutPast(); after != before {
			c.Errorf("the rules were changed: %+v", after)
		}
	}
	refused := map[string]int{"list": 2, "check": 2, "sync": 2, "prune": 2}
	wants(refused, "--conf-dir")
	write("05-other.conflist", `{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"bridge"}]}`)
	wants(map[string]int{"list": 0, "check": 1, "sync": 2, "prune": 2}, "no state in "+netconf.DefaultDataDir)

	write("10-podnet.conflist", string(n.Conflist))
	c.want("1 attachment: as recorded", "check", "--conf-dir", conf)
	c.fails(0, "8080/tcp", "list", "--conf-dir", conf)
	c.fails(0, "8080/tcp", "__complete", "--conf-dir", conf, "list", "--port", "")
	c.fails(0, "8080/tcp", "__complete", "explain", "--conf-dir", conf, "")
	c.want("rules of 1 attachment written", "sync", "--conf-dir", conf)
	c.want("every owner is alive", "prune", "--conf-dir", conf)

	write("20-second.conflist", conflist("second", ""))
	wants(refused, "several state directories")
	if _, err := os.Stat(netconf.DefaultDataDir); !errors.Is(err, fs.ErrNotExist) {
		c.Errorf("a state directory was made: %v", err)
	}
}

// twoStates takes the plugin out of two networks with a state directory each, where
// --conf-dir is not given. Pods of either keep it there.
func twoStates(c tool) {
	state, bin := c.w.DataDir, c.TempDir()
	first := c.w.NewNetwork(world.NetworkOptions{})
	second := c.w.NewNetwork(world.NetworkOptions{Name: "second", Second: true, Hostport: world.Config{"dataDir": filepath.Join(c.TempDir(), "state")}})
	if err := os.Symlink(filepath.Join(c.w.PluginDir, "hostport"), filepath.Join(bin, "hostport")); err != nil {
		c.Fatal(err)
	}
	a, b := first.MustAdd(c, "a", world.TCP(8080, 80)), second.MustAdd(c, "b", world.TCP(8081, 80))
	conf := filepath.Join(c.w.ConfDir, "net.d")
	for name, n := range map[string]*world.Network{"10-first.conflist": first, "20-second.conflist": second} {
		if err := errors.Join(os.MkdirAll(conf, 0o755), os.WriteFile(filepath.Join(conf, name), n.Conflist, 0o600)); err != nil {
			c.Fatal(err)
		}
	}
	c.w.DataDir = "" // not given
	c.env = []string{confDirVariable + "=" + conf, binDirVariable + "=" + bin}
	c.fails(2, "several state directories", "list")
	c.fails(2, "several state directories", "install", "--network", "podnet", "--replace-portmap")
	c.fails(0, "", "install", "--network", "podnet", "--replace-portmap", "--data-dir", state)
	c.fails(2, "holds 8080/tcp", "uninstall")
	a.MustDel(c)
	a.Pod.Close()
	c.fails(2, "holds 8081/tcp", "uninstall")
	b.MustDel(c)
	b.Pod.Close()
	c.fails(0, "20-second.conflist (without hostport)", "uninstall")
}
