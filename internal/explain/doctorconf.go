package explain

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/crio"
	"github.com/hostport-cni/hostport/internal/install"
	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/internal/podports"
)

// conflists checks the plugin's entries in the networks that runtimes load.
func (d *doctor) conflists() {
	all, warnings, err := install.Networks(d.places.ConfDir)
	for _, w := range warnings {
		d.say("conflist", MarkWarn, "", "%s", w)
	}
	if err != nil {
		d.say("conflist", MarkFail, "", "the conflists cannot be read: %v", err)
		return
	}
	isOurs := func(p *libcni.PluginConfig) bool { return p.Network.Type == "hostport" }
	ours := func(n install.Network) bool { return slices.ContainsFunc(n.Plugins, isOurs) }
	for _, n := range all {
		if ours(n) {
			d.network(n)
		}
	}
	if !slices.ContainsFunc(all, ours) {
		d.say("conflist", MarkFail, "", "no conflist in %s has an entry of type hostport: pods get no host ports from this plugin", d.places.ConfDir)
		return
	}
	for _, n := range all {
		if n.Default && !ours(n) {
			d.say("conflist", MarkWarn, "", "runtimes use the first file by name for all pods, and %s has no entry of hostport", filepath.Base(n.Path))
		}
	}
}

// network checks a network that has the plugin.
func (d *doctor) network(n install.Network) {
	for at, p := range n.Plugins {
		where := filepath.Base(n.Path)
		if at >= n.Inlined {
			where += " and " + n.Name + "/"
		}
		switch {
		case p.Network.Type == "hostport":
			d.entry(n, at, where)
		case p.Network.Type == "portmap" && p.Network.Capabilities["portMappings"]:
			d.say("conflist", MarkFail, "", "%s: portmap is beside hostport: both map every port, and portmap's rules come first. Remove its entry", where)
		}
	}
}

// entry checks the entry at an index of a network's chain. where is its file.
func (d *doctor) entry(n install.Network, at int, where string) {
	p := n.Plugins[at]
	conf, err := netconf.Parse(p.Bytes)
	before := n.Plugins[max(at-1, 0)].Network.Type
	mark, text := MarkFail, ""
	switch {
	case at == 0:
		text = "hostport is first: it has to come after the plugin that makes the pod's interface"
	case err != nil:
		text = "hostport refuses its entry: " + backend.OneLine(err.Error(), 8<<10)
	case !conf.AskAgent && !p.Network.Capabilities["portMappings"]:
		text = "hostport (after " + before + ") lacks \"capabilities\": {\"portMappings\": true}: the runtime sends it no ports"
	default:
		mark, text = MarkOK, "hostport follows "+before
		if conf.AskAgent {
			text += "; it asks hostport-agent for the ports of pods"
		}
		if at >= n.Inlined {
			text += "; runtimes read it there from containerd 2.1 and CRI-O 1.33 on"
		}
	}
	d.asks = d.asks || conf.AskAgent && at > 0
	d.say("conflist", mark, "", "%s: network %q: %s", where, n.Name, text)
	if conf.DataDir != filepath.Clean(d.places.State) {
		d.say("conflist", MarkWarn, "hostportctl --data-dir "+conf.DataDir+" list", "%s: dataDir is %s, and this command looked at %s", where, conf.DataDir, d.places.State)
	}
}

// runtime checks the configuration of CRI-O and containerd.
func (d *doctor) runtime() {
	if m := crio.Read(d.places.CRIO); m != crio.NoConfiguration {
		d.crio(m)
		return
	}
	if text := readAll(d.places.Containerd); text != "" {
		match := regexp.MustCompile(`(?m)^\s*conf_dir\s*=\s*["']([^"']+)["']`).FindStringSubmatch(text)
		if match != nil && filepath.Clean(match[1]) != filepath.Clean(d.places.ConfDir) {
			d.say("runtime", MarkWarn, "hostportctl doctor --conf-dir "+match[1], "containerd reads conflists from %s, and this command looked in %s", match[1], d.places.ConfDir)
			return
		}
		d.say("runtime", MarkOK, "", "containerd, with conflists from %s", d.places.ConfDir)
		return
	}
	d.say("runtime", MarkOK, "", "no configuration of containerd or CRI-O found: their defaults are in use, or it is elsewhere")
}

// crio reports whether CRI-O or the plugin serves host ports: CRI-O sends none
// to plugins.
func (d *doctor) crio(m crio.Mapping) {
	const off = `printf '[crio.runtime]\ndisable_hostport_mapping = true\n' >/etc/crio/crio.conf.d/90-hostport.conf && systemctl restart crio`
	switch {
	case m == crio.ByItself && d.asks:
		d.say("runtime", MarkFail, off, "CRI-O serves host ports itself, beside hostport")
	case m == crio.ByItself:
		d.say("runtime", MarkWarn, "", "CRI-O serves host ports itself and sends none to plugins: hostport serves none, unless disable_hostport_mapping = true and \"podPorts\": \"agent\", see docs/runtimes.md")
	case d.asks:
		d.say("runtime", MarkOK, "", "CRI-O leaves host ports to plugins, and hostport asks the agent for them")
	default:
		d.say("runtime", MarkFail, "hostportctl install --config podPorts=agent", "CRI-O serves no host ports and sends none to plugins: nobody serves them")
	}
}

// agent checks that the agent answers, if an entry asks it.
func (d *doctor) agent() {
	if !d.asks {
		return
	}
	if err := podports.Ping(podports.Socket(d.places.State)); err != nil {
		d.say("agent", MarkFail, "kubectl -n kube-system get pods -l app.kubernetes.io/name=hostport -o wide", "pods get no sandbox here: %v", err)
		return
	}
	d.say("agent", MarkOK, "", "hostport-agent answers at %s", podports.Socket(d.places.State))
}

// readAll returns the content of files, and of the files in directories.
func readAll(paths []string) string {
	var out strings.Builder
	for _, p := range paths {
		_ = filepath.WalkDir(p, func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				if b, err := os.ReadFile(path); err == nil {
					out.Write(b)
					out.WriteByte('\n')
				}
			}
			return nil
		})
	}
	return out.String()
}
