package agent

import (
	"context"
	"errors"
	"time"

	"github.com/hostport-cni/hostport/internal/install"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Cleanup removes the plugin from the network's configuration, and waits at
// most drain until no pod holds a port. Then it removes rules, state and
// programs too. Otherwise they stay, and pods keep their ports: the error is an
// *install.HeldError.
func (a *Agent) Cleanup(ctx context.Context, drain time.Duration) error {
	// Read the state's location now: the entry that names it is removed below.
	dirs := node.Dirs{a.node()}
	r, err := install.Uninstall(ctx, install.UninstallOptions{
		BinDir: a.o.Install.BinDir, ConfDir: a.o.Install.ConfDir, Network: a.o.Install.Network,
		AsBefore: true, Drain: true, DrainTimeout: drain, Binaries: []string{"hostport", "hostportctl"},
		Holders: func(ctx context.Context) ([]*hostport.Attachment, error) {
			all, err := dirs.Holders(ctx)
			if errors.Is(err, node.ErrUnseen) {
				err = nil // dead owners are waited for like living ones
			}
			return all, err
		},
		Release: dirs.Release,
		Clean:   func(context.Context) error { return dirs.Remove() },
	})
	if r != nil {
		for _, c := range r.Changes {
			a.log.Info("uninstalled", "action", c.Action, "path", c.Path, "detail", c.Detail)
		}
		for _, w := range r.Warnings {
			a.log.Warn(w)
		}
	}
	return err
}
