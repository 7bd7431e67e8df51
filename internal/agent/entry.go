package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/install"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

const (
	// entryInterval is how often the network's configuration is checked without a
	// notification: its directory may have been replaced.
	entryInterval = time.Minute
	// absentInterval is how often a missing configuration or directory is looked
	// for.
	absentInterval = time.Second
)

// adoptDelays returns the delays after which pods are adopted once more after
// the plugin replaced portmap: a runtime may have been in the middle of an ADD.
func adoptDelays() []time.Duration { return []time.Duration{5 * time.Second, time.Minute} }

// keeper keeps the plugin's entry in the network's configuration.
type keeper struct {
	*Agent
	files     *files
	backoff   backoff
	complaint string
	missing   bool              // the entry was seen missing, and is not back yet
	told      bool              // that a program removes it repeatedly
	networks  []string          // that have the plugin
	programs  map[string]string // what the installed programs look like, by path
	adoptions []time.Time       // when to adopt again, in order
}

// keepEntry installs the plugin, adopts and resyncs, and then restores the
// entry and the binaries whenever they change.
func (a *Agent) keepEntry(ctx context.Context) {
	k := &keeper{Agent: a, files: watchFiles(a.o.Install.ConfDir, a.o.Install.BinDir, a.log)}
	defer k.files.close()
	for started := false; ; {
		wait := k.ensure(ctx, started)
		if ctx.Err() != nil {
			return
		}
		if !started && wait == entryInterval {
			started = k.start(ctx)
			if !started {
				wait = retryTime
			}
		}
		if len(k.adoptions) > 0 {
			wait = min(wait, time.Until(k.adoptions[0]))
		}
		if !k.files.wait(ctx, max(wait, 0)) {
			return
		}
		if len(k.adoptions) > 0 && time.Now().After(k.adoptions[0]) {
			k.adoptions = k.adoptions[1:]
			k.adopt(context.WithoutCancel(ctx), k.owner())
		}
	}
}

// ensure installs the entry if it is missing, and returns when to check again.
func (k *keeper) ensure(ctx context.Context, started bool) time.Duration {
	defer k.locate()
	if k.o.NoInstall {
		k.report(k.named())
		return entryInterval
	}
	plan, err := k.plan(ctx)
	if err == nil && len(plan.Changes) == 0 {
		k.missing = false
		k.report(nil)
		return entryInterval
	}
	if err != nil {
		k.report(err)
		return k.later(err)
	}
	if started {
		if !k.missing && slices.ContainsFunc(plan.Changes, func(c install.Change) bool { return c.Action != install.Install }) {
			k.missing = true
			k.metrics.rewritten()
		}
		if wait := k.backoff.wait(time.Now()); wait > 0 {
			k.report(errFoughtOver)
			k.fight()
			return wait
		}
		k.told = k.told && k.backoff.row > 0
	}
	return k.install(ctx, started)
}

var errFoughtOver = errors.New("another program takes the plugin out of the network's configuration again and again")

// plan finds out what has to be done. It reads programs only if they look
// different from the last installation.
func (k *keeper) plan(ctx context.Context) (*install.Report, error) {
	o := k.o.Install
	o.DryRun = true
	if maps.Equal(k.programs, k.look()) {
		o.Binaries = nil
	}
	r, err := install.Run(ctx, o)
	if err == nil {
		k.networks = r.Networks
		if len(r.Changes) == 0 {
			k.programs = k.look()
		}
	}
	return r, err
}

// look returns the file metadata of the programs in the runtime's directory, to
// detect a replacement.
func (k *keeper) look() map[string]string {
	out := make(map[string]string)
	for _, from := range k.o.Install.Binaries {
		path := filepath.Join(k.o.Install.BinDir, filepath.Base(from))
		var st unix.Stat_t
		err := unix.Stat(path, &st)
		out[path] = fmt.Sprint(err, st.Dev, st.Ino, st.Size, st.Mode, st.Mtim, st.Ctim)
	}
	return out
}

// install installs the entry and the binaries.
func (k *keeper) install(ctx context.Context, started bool) time.Duration {
	// Finish an installation that has begun, even when the agent stops.
	r, err := install.Run(context.WithoutCancel(ctx), k.o.Install)
	if err != nil {
		k.report(err)
		return k.later(err)
	}
	k.missing, k.networks, k.programs = false, r.Networks, k.look()
	what := "installed"
	if started {
		what = "the plugin was put back: its entry or its binary was changed"
		k.backoff.done(time.Now())
	}
	for _, c := range r.Changes {
		k.log.Info(what, "action", c.Action, "path", c.Path, "detail", c.Detail, "by", k.files.writer())
	}
	for _, w := range r.Warnings {
		k.log.Warn(w)
	}
	k.report(nil)
	k.locate()
	if started {
		k.adopt(ctx, k.owner()) // pods that portmap served meanwhile
	}
	k.adoptions = nil
	for _, d := range adoptDelays() {
		k.adoptions = append(k.adoptions, time.Now().Add(d))
	}
	return entryInterval
}

// fight reports once that another program undoes the installation.
func (k *keeper) fight() {
	if k.told {
		return
	}
	k.told = true
	by := k.files.writer()
	k.log.Error("another program takes the plugin out of the network's configuration again and again: it is put back less often",
		"process", by, "times", k.backoff.row, "path", k.o.Install.ConfDir)
	k.o.Events.Node("HostPortInstallFoughtOver", by+" takes hostport out of the network's configuration again and again", true)
}

// later returns when to retry, and reports the error unless it only means that
// the node's network is not configured yet.
func (k *keeper) later(err error) time.Duration {
	if errors.Is(err, install.ErrNoNetwork) || errors.Is(err, fs.ErrNotExist) {
		return absentInterval
	}
	if text := err.Error(); text != k.complaint {
		k.complaint = text
		k.log.Error("the plugin cannot be installed", "reason", err)
	}
	return retryTime
}

// report shows whether the plugin is in the configuration that the runtime uses.
func (k *keeper) report(err error) {
	if err == nil {
		k.complaint = ""
	}
	k.metrics.setInstalled(err == nil)
	k.setReady(func(r *ready) {
		r.entry = ""
		if err != nil {
			r.entry = "the plugin is not in the network's configuration: " + err.Error()
		}
	})
}

// named reports an error if no network's configuration has the plugin.
func (k *keeper) named() error {
	entries, err := install.Entries(k.o.Install.ConfDir)
	if len(entries) == 0 {
		return errors.Join(install.ErrNoNetwork, err)
	}
	return nil
}

// start adopts the pods that portmap serves, and resyncs.
func (k *keeper) start(ctx context.Context) bool {
	ctx = context.WithoutCancel(ctx)
	n := k.owner()
	if !k.o.NoInstall {
		k.adopt(ctx, n)
	}
	err := n.Sync(ctx)
	missing, noState := errors.AsType[*node.NoStateError](err)
	read := !noState || missing.Unread == nil
	if noState && len(missing.Owners) == 0 && read {
		err = nil // no pod has had a host port yet
	}
	if err != nil {
		k.log.Error("records and rules could not be brought together", "reason", err)
		if !node.Other(err) && !(noState && read) {
			return false
		}
	}
	k.setReady(func(r *ready) { r.started = true })
	k.healer.notice(trigger{cause: causeStart, at: time.Now()})
	return true
}

// adopt takes over the pods that portmap serves, if the plugin replaces it.
func (k *keeper) adopt(ctx context.Context, n *node.Node) {
	if !k.o.Install.ReplacePortmap {
		return
	}
	known := make(map[hostport.Key]bool)
	if before, err := n.Snapshot(ctx, nil); err == nil {
		for _, o := range before.Attachments {
			known[o.Key] = true
		}
	}
	for _, network := range k.networks {
		got, err := n.Adopt(ctx, network, false)
		if err != nil {
			k.log.Error("pods of portmap could not all be adopted", "network", network, "reason", err)
		}
		if got != nil {
			k.tell(got, known)
		}
	}
}

// tell logs what an adoption did to attachments that were not in known.
func (k *keeper) tell(got *node.Adoption, known map[hostport.Key]bool) {
	for _, o := range got.Adopted {
		if !known[o.Key] {
			k.log.Info("adopted from portmap", "owner", o.Owner(), "ports", ports(o))
		}
	}
	for _, o := range got.Removed {
		k.log.Info("rules of portmap for a dead pod removed", "owner", o.Owner(), "ports", ports(o))
	}
	for _, l := range got.Left {
		k.log.Warn("not adopted from portmap", "owner", l.Attachment.Owner(), "reason", l.Reason)
	}
	for _, f := range got.Foreign {
		k.log.Info("another program has host ports: they are left alone", "program", f.Program)
	}
}
