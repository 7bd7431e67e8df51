package explain

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/crio"
	"github.com/hostport-cni/hostport/internal/podports"
)

// conflist is as much of a network configuration as is looked at.
type conflist struct {
	Name    string  `json:"name"`
	Plugins []entry `json:"plugins"`
}

// entry is a plugin of a conflist.
type entry struct {
	Type         string          `json:"type"`
	DataDir      string          `json:"dataDir"`
	PodPorts     string          `json:"podPorts"`
	Capabilities map[string]bool `json:"capabilities"`
}

// conflists checks the entry of the plugin in each conflist that has one.
func (d *doctor) conflists() {
	files, _ := filepath.Glob(filepath.Join(d.places.ConfDir, "*.conf*"))
	slices.Sort(files)
	entries, first := 0, ""
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var c conflist
		if err := json.Unmarshal(b, &c); err != nil {
			d.say("conflist", MarkWarn, "", "%s is not valid JSON: %v", file, err)
			continue
		}
		at := slices.IndexFunc(c.Plugins, func(e entry) bool { return e.Type == "hostport" })
		if at < 0 {
			continue
		}
		if entries++; entries == 1 {
			first = file
		}
		d.entry(file, c, at)
	}
	if entries > 0 && first != files[0] {
		d.say("conflist", MarkWarn, "", "runtimes use the first file by name for all pods, and %s has no entry of hostport", filepath.Base(files[0]))
	}
	if entries == 0 {
		d.say("conflist", MarkFail, "", "no conflist in %s has an entry of type hostport: pods get no host ports from this plugin", d.places.ConfDir)
	}
}

// entry checks one conflist with the entry at an index.
func (d *doctor) entry(file string, c conflist, at int) {
	p := c.Plugins[at]
	mark, text := MarkOK, "network %q: hostport follows %s"
	before := "nothing"
	if at > 0 {
		before = c.Plugins[at-1].Type
	}
	switch {
	case at == 0:
		mark, text = MarkFail, "network %q: hostport is first (after %s): it has to come after the plugin that makes the pod's interface"
	case p.PodPorts == "agent":
		d.asks = true
		text += "; it asks hostport-agent for the ports of pods"
	case !p.Capabilities["portMappings"]:
		mark, text = MarkFail, "network %q: hostport (after %s) lacks \"capabilities\": {\"portMappings\": true}: the runtime sends it no ports"
	}
	d.say("conflist", mark, "", filepath.Base(file)+": "+text, c.Name, before)
	for _, other := range c.Plugins {
		if other.Type == "portmap" && other.Capabilities["portMappings"] {
			d.say("conflist", MarkFail, "", "%s: portmap is beside hostport: both map every port, and portmap's rules come first. Remove its entry", filepath.Base(file))
		}
	}
	if p.DataDir != "" && p.DataDir != d.places.State {
		d.say("conflist", MarkWarn, "hostportctl --data-dir "+p.DataDir+" list", "%s: dataDir is %s, and this command looked at %s", filepath.Base(file), p.DataDir, d.places.State)
	}
}

// runtime looks at the configuration of CRI-O and containerd.
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

// crio says who serves host ports under CRI-O, which sends none to plugins.
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

// agent looks for the agent, if an entry asks it.
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
