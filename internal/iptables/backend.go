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

// workTime is what a tool may take beyond its wait for the lock.
const workTime = 10 * time.Second

// Options of a Backend. The zero value is usable.
type Options struct {
	// Wait is how long the tools wait for the xtables lock, in whole seconds; zero
	// is 30. A tool that hangs is killed soon after.
	Wait time.Duration
	// Log receives warnings; nil discards them.
	Log *slog.Logger
}

// Backend programs host ports with the iptables tools on the PATH. It keeps
// nothing between calls.
type Backend struct {
	wait, work time.Duration
	log        *slog.Logger
}

// New makes a backend.
func New(o Options) *Backend {
	if o.Wait <= 0 {
		o.Wait = 30 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Backend{wait: max(o.Wait, time.Second), work: workTime, log: o.Log}
}

// Apply carries out one change: one iptables-restore process for each family
// that it touches, both at once. seen is the histories of both.
func (b *Backend) Apply(ctx context.Context, c backend.Change) (seen string, err error) {
	after := historiesBefore(c)
	texts, errs := make(map[hostport.Family]string), make([]error, len(hostport.Families()))
	for _, f := range hostport.Families() {
		s, err := changeScript(f, c, after.of(f))
		if err != nil {
			return "", err
		}
		texts[f] = s.String()
	}
	var wg sync.WaitGroup
	for i, f := range hostport.Families() {
		wg.Go(func() {
			if err := b.restore(ctx, command(f)+"-restore", texts[f], b.wait); err != nil {
				errs[i] = fmt.Errorf("program %s: %w", f, err)
			}
		})
	}
	wg.Wait()
	return after.String(), errors.Join(errs...)
}
