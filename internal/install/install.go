package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
)

// Directories that most runtimes use.
const (
	DefaultBinDir  = "/opt/cni/bin"
	DefaultConfDir = "/etc/cni/net.d"
)

// Mode is where the plugin's entry goes.
type Mode string

// The modes.
const (
	// Conflist is the network's own file: every runtime reads it. A main plugin
	// that rewrites its conflist removes the entry.
	Conflist Mode = "conflist"
	// Dropin is a file in the network's own directory: the entry survives such a
	// rewrite. It needs libcni 1.3 (containerd 2.1, CRI-O 1.33), and CRI-O sends
	// no DEL.
	Dropin Mode = "dropin"
)

// Options say what to install where.
type Options struct {
	BinDir  string
	ConfDir string
	// Network is the name of the network; "" chooses the runtime's default.
	Network string
	Mode    Mode
	// ReplacePortmap allows removing portmap from the chain.
	ReplacePortmap bool
	// Settings are keys of the plugin's entry.
	Settings []Setting
	// Binaries are the files to install in BinDir under their own names.
	Binaries []string
	DryRun   bool
	// Wait waits until the network has a configuration.
	Wait bool
}

// waitInterval is how often Wait checks. The directory may not exist yet, so it
// cannot be watched.
const waitInterval = 500 * time.Millisecond

// Run installs the plugin. The report says what was done, even with an error.
// Run leaves alone what is in place, so it may be called at any time; a
// network's configuration is always either the old one or the new one.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Mode != Conflist && o.Mode != Dropin {
		return nil, fmt.Errorf("unknown mode %q: want %s or %s", o.Mode, Conflist, Dropin)
	}
	if !o.Wait && !o.DryRun {
		// Leave nothing in BinDir if there is no network to serve.
		plan := o
		plan.DryRun = true
		if r, err := runConfiguration(ctx, plan); err != nil {
			if r != nil {
				r.Changes = nil
			}
			return r, err
		}
	}
	binaries, err := o.installBinaries()
	if err != nil {
		return nil, err
	}
	for {
		r, err := runConfiguration(ctx, o)
		if r != nil {
			r.Changes = append(slices.Clone(binaries), r.Changes...)
		}
		if !o.Wait || !errors.Is(err, ErrNoNetwork) && !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
		if err := pause(ctx, waitInterval); err != nil {
			return r, err
		}
	}
}

func runConfiguration(ctx context.Context, o Options) (*Report, error) {
	if _, err := os.Stat(o.ConfDir); err != nil {
		return nil, err
	}
	return locked(ctx, o.ConfDir, o.DryRun, func(r *Report) ([]*network, error) {
		all, warnings, err := networks(o.ConfDir)
		r.Warnings = append(r.Warnings, warnings...)
		if err != nil {
			return nil, err
		}
		n, err := choose(all, o.Network)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.ConfDir, err)
		}
		r.Networks = append(r.Networks, n.name)
		if err := o.check(ctx, n); err != nil {
			return nil, fmt.Errorf("network %s: %w", n.name, err)
		}
		plan := o.planConflist
		if o.Mode == Dropin {
			plan = o.planDropin
		}
		if err := plan(r, n); err != nil {
			return nil, fmt.Errorf("%s: %w", n.path, err)
		}
		return []*network{n}, nil
	})
}

// installBinaries replaces binaries that differ. Each is the old or the new one
// at any time, even while it runs.
func (o *Options) installBinaries() ([]Change, error) {
	if !o.DryRun {
		unlock, err := lock(o.BinDir)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	var out []Change
	for _, from := range o.Binaries {
		to := filepath.Join(o.BinDir, filepath.Base(from))
		same, err := sameContent(from, to)
		if err != nil {
			return nil, err
		}
		if !same {
			out = append(out, Change{Action: Install, Path: to, Detail: "from " + from, from: from})
		}
	}
	if o.DryRun {
		return out, nil
	}
	return out, execute(out)
}

// check returns an error if the plan would leave the network without host
// ports, or unable to start pods.
func (o *Options) check(ctx context.Context, n *network) error {
	if n.serves(portmapType) && !o.ReplacePortmap {
		return errors.New("portmap serves its host ports: --replace-portmap takes its place")
	}
	if o.DryRun {
		return nil // the binary may not exist yet
	}
	info, err := libcni.NewCNIConfig([]string{o.BinDir}, nil).GetVersionInfo(ctx, hostportType)
	if err != nil {
		return fmt.Errorf("the plugin does not run: %w", err)
	}
	if v := n.list.CNIVersion; v != "" && !slices.Contains(info.SupportedVersions(), v) {
		return fmt.Errorf("its cniVersion is %s: the plugin knows %s", v, strings.Join(info.SupportedVersions(), ", "))
	}
	return nil
}

// planConflist plans that the entry is added to the network's own file. After
// that, our file in its directory, from the other mode, is removed; its keys
// are kept.
func (o *Options) planConflist(r *Report, n *network) error {
	entry := newEntry(hostportType)
	if n.dropin != nil {
		entry = n.dropin
	}
	path, text := n.path, n.text
	if n.single != nil {
		var err error
		if text, err = listOf(n.single); err != nil {
			return err
		}
		path = strings.TrimSuffix(n.path, filepath.Ext(n.path)) + ".conflist"
		if err := absent(path, text); err != nil {
			return err
		}
	}
	want, err := put(text, hostportType, entry, o.Settings)
	if err != nil {
		return err
	}
	if err := validate(text, want); err != nil {
		return err
	}
	detail := "hostport behind " + n.list.Plugins[0].Network.Type
	if n.serves(portmapType) {
		detail = "hostport in place of portmap"
	}
	if n.single != nil {
		r.add(Change{Action: Write, Path: path, Detail: detail, Content: string(want), like: n.path})
		r.add(Change{Action: Rename, Path: n.path + backupSuffix, Detail: "a chain replaces it", from: n.path})
	} else {
		n.rewrite(r, want, detail)
	}
	n.removeDropin(r)
	return nil
}

// absent returns an error if path has a conflist other than the one that an
// earlier, interrupted run created from text.
func absent(path string, text []byte) error {
	there, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if same, err := sameBare(text, there); same && err == nil {
		return nil
	}
	return fmt.Errorf("it is of the form without a chain, and its place as a conflist is taken by %s", path)
}

// planDropin plans that the entry is written to a separate file, and then
// removed, like portmap, from the network's own file. In between, both serve.
func (o *Options) planDropin(r *Report, n *network) error {
	if n.single != nil {
		return errors.New("libcni adds to conflists only: use the mode conflist")
	}
	if n.list.LoadOnlyInlinedPlugins {
		return errors.New("loadOnlyInlinedPlugins keeps libcni from reading the network's directory: use the mode conflist")
	}
	r.warnf("libcni reads %s from version 1.3 on: containerd 2.1, CRI-O 1.33", n.dropinPath())
	c, err := parseChain(n.text)
	if err != nil {
		return err
	}
	entry := n.dropin
	for _, other := range [][]byte{c.entry(hostportType), c.entry(portmapType), newEntry(hostportType)} {
		if entry == nil {
			entry = other
		}
	}
	entry, err = configure(entry, strings.IndexByte(string(entry), '{'), hostportType, o.Settings)
	if err != nil {
		return err
	}
	text := c.bare()
	if err := validate(n.text, text, entry); err != nil {
		return err
	}
	if string(entry) != string(n.dropin) {
		r.add(Change{Action: Write, Path: n.dropinPath(), Detail: "hostport for network " + n.name, Content: string(entry), like: n.path})
		r.add(Change{Action: Reload, Path: filepath.Dir(n.path), Detail: "runtimes do not watch the directory below"})
	}
	n.rewrite(r, text, "without an entry of its own")
	return nil
}

// rewrite plans that the network's file becomes text. The first time, the
// original is kept as a backup.
func (n *network) rewrite(r *Report, text []byte, detail string) {
	if string(text) == string(n.text) {
		return
	}
	if !n.serves(hostportType) {
		r.add(Change{Action: Backup, Path: n.path + backupSuffix, Content: string(n.text), like: n.path})
	}
	r.add(Change{Action: Write, Path: n.path, Detail: detail, Content: string(text), like: n.path})
	if target, err := filepath.EvalSymlinks(n.path); err == nil && filepath.Dir(target) != filepath.Dir(n.path) {
		r.add(Change{Action: Reload, Path: filepath.Dir(n.path), Detail: "the file itself is in " + filepath.Dir(target)})
	}
}

// removeDropin plans the removal of our file in the network's directory, and of
// the directory if nothing else is in it.
func (n *network) removeDropin(r *Report) {
	if n.dropin == nil {
		return
	}
	path := n.dropinPath()
	if entries, err := os.ReadDir(filepath.Dir(path)); err == nil && len(entries) == 1 {
		path = filepath.Dir(path)
	}
	r.add(Change{Action: Remove, Path: path})
	r.add(Change{Action: Reload, Path: filepath.Dir(n.path), Detail: "runtimes do not watch the directory below"})
}
