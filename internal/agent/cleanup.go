package agent

import (
	"context"
	"errors"
	"time"

	"github.com/hostport-cni/hostport/internal/install"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Cleanup takes the plugin out of the network's configuration, and waits for as
// long as drain until no pod holds a port. Then rules, state and programs go too.
// Otherwise they stay, and pods keep their ports: the error is an
// *install.HeldError.
func (a *Agent) Cleanup(ctx context.Context, drain time.Duration) error {
	// The entry says where the state is for as long as it is there.
	dirs := node.Dirs{a.node()}
	r, err := install.Uninstall(ctx, install.UninstallOptions{
		BinDir: a.o.Install.BinDir, ConfDir: a.o.Install.ConfDir, Network: a.o.Install.Network,
		AsBefore: true, Drain: true, DrainTimeout: drain, Binaries: []string{"hostport", "hostportctl"},
		Holders: func(ctx context.Context) ([]*hostport.Attachment, error) {
			all, err := dirs.Holders(ctx)
			if errors.Is(err, node.ErrUnseen) {
				err = nil // whoever is dead is waited for like the others
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
