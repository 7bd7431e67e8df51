package agent

import (
	"context"
	"errors"
	"fmt"
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
	n := a.node()
	r, err := install.Uninstall(ctx, install.UninstallOptions{
		BinDir: a.o.Install.BinDir, ConfDir: a.o.Install.ConfDir, Network: a.o.Install.Network,
		AsBefore: true, Drain: true, DrainTimeout: drain, Binaries: []string{"hostport", "hostportctl"},
		Holders: func(ctx context.Context) ([]*hostport.Attachment, error) { return holders(ctx, n) },
		Release: func(ctx context.Context, at *hostport.Attachment) error {
			_, err := n.Delete(ctx, at.Key, at.Network, false)
			return err
		},
		Clean: func(context.Context) error { return n.RemoveState() },
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

// holders removes what pods that are gone have left, and returns the others.
func holders(ctx context.Context, n *node.Node) ([]*hostport.Attachment, error) {
	_, err := n.Prune(ctx)
	if missing, ok := errors.AsType[*node.NoStateError](err); ok && len(missing.Owners) == 0 {
		return nil, nil
	}
	if err != nil && !node.Unseen(err) {
		return nil, fmt.Errorf("remove dead owners: %w", err)
	}
	return n.List(ctx)
}
