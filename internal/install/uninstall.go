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

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// UninstallOptions say what to remove and when.
type UninstallOptions struct {
	BinDir  string
	ConfDir string
	// Network is the name of the network; "" means every network that has the
	// plugin.
	Network string
	// BackToPortmap puts portmap in the plugin's place, and hands running pods
	// back to it.
	BackToPortmap bool
	// AsBefore does what BackToPortmap does in networks where the installation
	// found portmap.
	AsBefore bool
	// Drain continues although pods hold ports, and waits at most DrainTimeout
	// until they are gone.
	Drain        bool
	DrainTimeout time.Duration
	// Binaries holds the names of the files in BinDir, which are removed last.
	Binaries []string
	DryRun   bool

	// Holders returns the attachments of living pods that still hold ports, and
	// removes the remains of dead ones.
	Holders func(context.Context) ([]*hostport.Attachment, error)
	// Release removes the rules and the record of an attachment that portmap
	// serves again. It is required with BackToPortmap.
	Release func(context.Context, *hostport.Attachment) error
	// Clean removes the plugin's base rules and its state. It is called when no
	// pod holds a port.
	Clean func(context.Context) error
}

// HeldError is returned when pods hold ports.
type HeldError struct {
	Holders []*hostport.Attachment
	// Removed reports whether the entries are already removed: only rules, state
	// and binaries are left.
	Removed bool
}

func (e *HeldError) Error() string {
	lines := make([]string, len(e.Holders))
	for i, a := range e.Holders {
		ports := make([]string, len(a.Mappings))
		for j, m := range a.Mappings {
			ports[j] = m.String()
		}
		lines[i] = a.Owner() + " holds " + strings.Join(ports, ", ")
	}
	slices.Sort(lines)
	hint := "nothing was changed: --drain-timeout waits for them, --back-to-portmap hands the network over"
	if e.Removed {
		hint = "their rules, the state and the binaries stay: run it again when they are gone"
	}
	return strings.Join(lines, "\n") + "\n" + hint
}

// drainInterval is how often a drain checks whether pods are gone.
const drainInterval = time.Second

// Uninstall removes the plugin: first the entries, so that no new pod gets
// ports, and once no pod holds a port, rules, state and binaries. While pods
// hold ports it returns a *HeldError before changing anything, unless
// BackToPortmap or Drain is set; then their rules stay. Binaries stay as long
// as any network names the plugin.
func Uninstall(ctx context.Context, o UninstallOptions) (*Report, error) {
	holders, err := o.holders(ctx)
	if err != nil {
		return nil, err
	}
	if len(holders) > 0 && !o.Drain && !o.BackToPortmap {
		return nil, &HeldError{Holders: holders}
	}
	r, err := locked(ctx, o.ConfDir, o.DryRun, o.planEntries)
	if err != nil {
		return r, err
	}
	if o.DryRun && len(holders) > 0 {
		if o.BackToPortmap {
			r.warnf("pods that would be handed back to portmap, unless it refuses them:")
		}
		r.warnf("%s", (&HeldError{Holders: holders, Removed: true}).Error())
		return r, nil
	}
	if (o.BackToPortmap || o.AsBefore) && len(holders) > 0 {
		if err := o.handBack(ctx, holders); err != nil {
			r.warnf("%v", err)
		}
		if holders, err = o.holders(ctx); err != nil {
			return r, err
		}
	}
	for deadline := time.Now().Add(o.DrainTimeout); len(holders) > 0; {
		if !o.Drain || !time.Now().Before(deadline) {
			return r, &HeldError{Holders: holders, Removed: true}
		}
		if err := pause(ctx, drainInterval); err != nil {
			return r, err
		}
		if holders, err = o.holders(ctx); err != nil {
			return r, err
		}
	}
	if used, err := o.used(); used || err != nil {
		return r, err
	}
	return r, o.finish(ctx, r)
}

// finish removes what is left when no network has the plugin. Pods of a network
// that is no longer configured may still hold ports.
func (o *UninstallOptions) finish(ctx context.Context, r *Report) error {
	rest, err := o.Holders(ctx)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return &HeldError{Holders: rest, Removed: true}
	}
	if !o.DryRun {
		if err := o.Clean(ctx); err != nil {
			return err
		}
	}
	removed, err := filepath.Glob(filepath.Join(o.ConfDir, "*"+removedSuffix))
	if err != nil {
		return err
	}
	var last []Change
	for _, path := range removed {
		last = append(last, Change{Action: Remove, Path: path})
	}
	for _, name := range o.Binaries {
		path := filepath.Join(o.BinDir, name)
		if _, err := os.Lstat(path); err == nil {
			last = append(last, Change{Action: Remove, Path: path})
		}
	}
	r.Changes = append(r.Changes, last...)
	if o.DryRun {
		return nil
	}
	return execute(last)
}

// holders returns the attachments of the networks from which the plugin is
// removed.
func (o *UninstallOptions) holders(ctx context.Context) ([]*hostport.Attachment, error) {
	all, err := o.Holders(ctx)
	return slices.DeleteFunc(slices.Clone(all), func(a *hostport.Attachment) bool {
		return o.Network != "" && a.Network != o.Network
	}), err
}

// used reports whether a network other than the chosen ones has the plugin.
func (o *UninstallOptions) used() (bool, error) {
	all, _, err := networks(o.ConfDir)
	return slices.ContainsFunc(all, func(n *network) bool {
		return (n.dropin != nil || n.serves(hostportType)) && o.Network != "" && n.name != o.Network
	}), err
}

// planEntries plans the changes to each network's configuration.
func (o *UninstallOptions) planEntries(r *Report) ([]*network, error) {
	all, warnings, err := networks(o.ConfDir)
	r.Warnings = append(r.Warnings, warnings...)
	if err != nil {
		return nil, err
	}
	var out []*network
	for _, n := range all {
		if o.Network != "" && n.name != o.Network {
			continue
		}
		backup, err := os.ReadFile(n.path + backupSuffix)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if n.dropin == nil && !n.serves(hostportType) && backup == nil {
			continue
		}
		if err := o.planNetwork(r, n, backup); err != nil {
			return nil, fmt.Errorf("%s: %w", n.path, err)
		}
		r.Networks = append(r.Networks, n.name)
		out = append(out, n)
	}
	if len(out) == 0 && o.Network != "" {
		return nil, fmt.Errorf("%s: %w of the name %q with hostport", o.ConfDir, ErrNoNetwork, o.Network)
	}
	return out, nil
}

func (o *UninstallOptions) planNetwork(r *Report, n *network, backup []byte) error {
	if n.dropin == nil && !n.serves(hostportType) {
		// An earlier run was killed just before this last step.
		r.add(Change{Action: Remove, Path: n.path + backupSuffix})
		return nil
	}
	c, err := parseChain(n.text)
	if err != nil {
		return err
	}
	if done, err := n.planSingle(r, c.entry(hostportType)); done || err != nil {
		return err
	}
	text, detail := c.without(func(_ int, kind string) bool { return kind == hostportType }), "without hostport"
	if o.BackToPortmap || o.AsBefore && hasPortmap(backup) {
		if err := o.portmapInstalled(); err != nil {
			return err
		}
		entry := n.dropin
		if entry == nil {
			entry = newEntry(portmapType)
		}
		if text, err = backToPortmap(n.text, backup, entry); err != nil {
			return err
		}
		detail = "portmap in place of hostport"
	}
	if err := validate(n.text, text); err != nil {
		return err
	}
	n.keepEntries(r, c.entry(hostportType))
	if string(text) != string(n.text) {
		r.add(Change{Action: Write, Path: n.path, Detail: detail, Content: string(text), like: n.path})
	}
	n.removeDropin(r)
	if backup != nil {
		r.add(Change{Action: Remove, Path: n.path + backupSuffix})
	}
	return nil
}

// hasPortmap reports whether a backup has portmap.
func hasPortmap(backup []byte) bool {
	if backup == nil {
		return false
	}
	c, err := parseChain(backup)
	return err == nil && c.first(portmapType) >= 0
}

// keepEntries plans that an entry with its own state directory is kept where
// DataDirs finds it: the location of the records is needed until no pod holds a
// port.
func (n *network) keepEntries(r *Report, entry []byte) {
	for _, e := range [][]byte{entry, n.dropin} {
		if conf, err := netconf.Parse(e); err == nil && conf.DataDir != netconf.DefaultDataDir {
			r.add(Change{Action: Backup, Path: n.path + removedSuffix, Content: string(e), like: n.path})
		}
	}
}

// planSingle plans that a single-plugin configuration is restored, if the
// conflist is unchanged since the installation created it.
func (n *network) planSingle(r *Report, entry []byte) (done bool, err error) {
	for _, ext := range []string{".conf", ".json"} {
		path := strings.TrimSuffix(n.path, filepath.Ext(n.path)) + ext
		text, err := os.ReadFile(path + backupSuffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		same, err := madeOf(n.text, text)
		if !same || err != nil {
			return false, err
		}
		n.keepEntries(r, entry)
		r.add(Change{Action: Rename, Path: path, Detail: "the configuration without a chain", from: path + backupSuffix})
		r.add(Change{Action: Remove, Path: n.path})
		return true, nil
	}
	return false, nil
}

// madeOf reports whether a conflist was created from a single-plugin
// configuration, apart from our entry.
func madeOf(list, single []byte) (bool, error) {
	conf, err := libcni.NetworkPluginConfFromBytes(single)
	if err != nil {
		return false, err
	}
	made, err := listOf(conf)
	if err != nil {
		return false, err
	}
	return sameBare(list, made)
}

// portmapInstalled returns an error if the runtime would not find portmap: no
// pod would start.
func (o *UninstallOptions) portmapInstalled() error {
	if _, err := os.Stat(filepath.Join(o.BinDir, portmapType)); err != nil {
		return fmt.Errorf("portmap is not there to come back: %w", err)
	}
	return nil
}
