package explain

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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
	if text := readAll(d.places.CRIO); text != "" {
		disabled := regexp.MustCompile(`(?m)^\s*disable_hostport_mapping\s*=\s*true`).MatchString(text)
		if disabled {
			d.say("runtime", MarkOK, "", "CRI-O does not map host ports itself; it sends none to plugins either, see docs/runtimes.md")
		} else {
			d.say("runtime", MarkWarn, "", "CRI-O maps host ports itself and sends none to plugins: set disable_hostport_mapping = true, see docs/runtimes.md")
		}
		return
	}
	if text := readAll(d.places.Containerd); text != "" {
		match := regexp.MustCompile(`(?m)^\s*conf_dir\s*=\s*["']([^"']+)["']`).FindStringSubmatch(text)
		if match != nil && filepath.Clean(match[1]) != filepath.Clean(d.places.ConfDir) {
			d.say("runtime", MarkWarn, "hostportctl doctor --cni-conf-dir "+match[1], "containerd reads conflists from %s, and this command looked in %s", match[1], d.places.ConfDir)
			return
		}
		d.say("runtime", MarkOK, "", "containerd, with conflists from %s", d.places.ConfDir)
		return
	}
	d.say("runtime", MarkOK, "", "no configuration of containerd or CRI-O found: their defaults are in use, or it is elsewhere")
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
