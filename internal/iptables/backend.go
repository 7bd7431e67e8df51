package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Backend programs host ports with the iptables tools on the PATH. It keeps
// nothing between calls.
type Backend struct {
	// Wait is how long the tools wait for the xtables lock, in whole seconds, and at
	// least one. A tool that hangs is killed soon after.
	Wait time.Duration
	// Log receives warnings.
	Log *slog.Logger
}

// Apply carries out one change: one iptables-restore process for each family
// that it touches, both in parallel. seen is the histories of both.
func (b *Backend) Apply(ctx context.Context, c backend.Change) (seen string, err error) {
	after, scripts := historiesBefore(c), make(map[hostport.Family]script)
	for _, f := range hostport.Families() {
		if scripts[f], err = changeScript(f, c, after.of(f)); err != nil {
			return "", fmt.Errorf("program %s: %w", f, err)
		}
	}
	unlock, err := b.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	errs := make([]error, 2*len(scripts))
	var wg sync.WaitGroup
	for i, f := range hostport.Families() {
		wg.Go(func() {
			if err := b.restore(ctx, command(f)+"-restore", scripts[f].String(), b.Wait); err != nil {
				errs[2*i] = fmt.Errorf("program %s: %w", f, err)
			}
		})
		wg.Go(func() { // beside the process: on legacy it takes 5 % of its time
			if len(scripts[f]) > 0 && b.inBoth(ctx, f) {
				errs[2*i+1] = fmt.Errorf("program %s: %w: both variants of iptables hold rules", f, backend.ErrDrift)
			}
		})
	}
	wg.Wait()
	return after.String(), errors.Join(errs...)
}
