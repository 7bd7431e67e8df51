package world

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// variant is one of the two programs behind the name iptables.
type variant string

const (
	variantNFT    variant = "nft"
	variantLegacy variant = "legacy"
)

// binary returns the program that acts as every tool of the variant, by
// argv[0].
func (v variant) binary() string { return program("xtables-" + string(v) + "-multi") }

// program finds a program on the PATH of the test, where make test-tools puts
// other versions, or where Debian installs it.
func program(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return "/usr/sbin/" + name
}

var nftVersion = regexp.MustCompile(`^nftables v(\d+)\.`)

// NFTRestores reports whether the nft of this machine can load its own listing
// of the plugin's table. Versions before 1.0 support neither counters in maps
// nor maps from a protocol and a port to an address and a port.
func NFTRestores() bool {
	out, err := exec.Command(program("nft"), "--version").Output()
	m := nftVersion.FindSubmatch(out)
	return err != nil || m == nil || string(m[1]) != "0"
}

// iptablesTools holds the names of tools that a plugin may start.
var iptablesTools = []string{
	"iptables", "iptables-save", "iptables-restore",
	"ip6tables", "ip6tables-save", "ip6tables-restore",
}

// installTools fills ToolDir. Every tool there writes its name and arguments to
// a log and then executes the real one, so that a test can check which
// processes a plugin has started.
func (w *World) installTools() {
	w.t.Helper()
	for _, name := range iptablesTools {
		w.InstallTool(name, w.Backend.variant().binary())
	}
	w.InstallTool("nft", program("nft"))
}

// UseVariant switches the iptables tools to the variant of another backend,
// like update-alternatives.
func (w *World) UseVariant(b Backend) {
	w.t.Helper()
	for _, name := range iptablesTools {
		w.InstallTool(name, b.variant().binary())
	}
}

// InstallVariants adds the tools of both variants under their own names
// (iptables-legacy-save, ip6tables-nft-restore, ...), as distributions do.
func (w *World) InstallVariants() {
	w.t.Helper()
	for _, v := range []variant{variantNFT, variantLegacy} {
		for _, name := range iptablesTools {
			command, verb, _ := strings.Cut(name, "-")
			w.InstallTool(strings.TrimSuffix(command+"-"+string(v)+"-"+verb, "-"), v.binary())
		}
	}
}

// InstallTool puts a program on the plugins' PATH, in place of a tool of that
// name. The program gets the tool's name as argv[0].
func (w *World) InstallTool(name, program string) {
	w.t.Helper()
	dir := filepath.Join(w.ToolDir, ".real")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	link := filepath.Join(dir, name)
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	if err := os.Symlink(program, link); err != nil {
		w.t.Fatal(err)
	}
	w.writeTool(name, fmt.Sprintf("exec %s \"$@\"\n", link))
}

// ReplaceTool puts a shell script in place of a tool, for tests of failure. The
// script may call the real tool as "$REAL". Its starts are logged as well.
func (w *World) ReplaceTool(name, script string) {
	w.t.Helper()
	w.writeTool(name, fmt.Sprintf("REAL=%s\n%s\n", filepath.Join(w.ToolDir, ".real", name), script))
}

// RemoveTool removes a tool from PATH.
func (w *World) RemoveTool(name string) {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.ToolDir, name)); err != nil {
		w.t.Fatal(err)
	}
}

// RestoreTools undoes HideNFTables, and ReplaceTool and RemoveTool for every tool.
func (w *World) RestoreTools() {
	w.t.Helper()
	w.hidden = false
	w.installTools()
}

// writeTool installs a script atomically: a plugin may be starting the old one.
func (w *World) writeTool(name, body string) {
	w.t.Helper()
	script := fmt.Sprintf("#!/bin/sh\necho \"%s $*\" >>%s\n%s", name, w.counts, body)
	path := filepath.Join(w.ToolDir, name)
	if err := os.WriteFile(path+".new", []byte(script), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

// Started returns the tools that plugins have started since the last call, each
// with its arguments, in order.
func (w *World) Started() []string {
	w.t.Helper()
	log, err := os.ReadFile(w.counts)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.Remove(w.counts); err != nil {
		w.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(log)), "\n")
}

// UsePlugin replaces a plugin's binary, for this World only and for networks
// created after the call.
func (w *World) UsePlugin(name, binary string) {
	w.t.Helper()
	dir := w.t.TempDir()
	entries, err := os.ReadDir(w.PluginDir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		target := filepath.Join(w.PluginDir, e.Name())
		if e.Name() == name {
			target = binary
		}
		if err := os.Symlink(target, filepath.Join(dir, e.Name())); err != nil {
			w.t.Fatal(err)
		}
	}
	w.PluginDir = dir
}
