// Package iptables is the backend that maps host ports with iptables, in
// whichever of its variants (nf_tables and legacy) the PATH leads to. Its chains,
// and how a change notices drift, are described in docs/design.md.
//
// Rules are written as iptables-save would print them, so that those of the kernel
// can be compared as text.
package iptables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Backend programs host ports with the iptables tools on the PATH.
type Backend struct {
	// Wait is how long a change waits for one of another state directory, and the tools
	// for the xtables lock, these in whole seconds and at least one. A tool that hangs is
	// killed soon after.
	Wait time.Duration
	// Log receives warnings.
	Log *slog.Logger
}

// Apply carries out one change: one iptables-restore process for each family
// that it touches, both in parallel. seen is the histories of both.
func (b *Backend) Apply(ctx context.Context, c backend.Change) (seen string, err error) {
	after := historiesBefore(c)
	var work []func() error
	for _, f := range hostport.Families() {
		s, err := changeScript(f, c, after)
		if err != nil {
			return "", fmt.Errorf("program %s: %w", f, err)
		}
		if len(s) == 0 {
			continue
		}
		work = append(work, func() error {
			if err := b.restore(ctx, command(f)+"-restore", s.String(), b.Wait); err != nil {
				return fmt.Errorf("program %s: %w", f, err)
			}
			return nil
		}, func() error { return b.oneVariant(ctx, f) }) // beside the process: on legacy it takes 5 % of its time
	}
	unlock, err := b.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	errs := make([]error, len(work))
	var wg sync.WaitGroup
	for i, do := range slices.Backward(work) {
		if i > 0 {
			wg.Go(func() { errs[i] = do() })
		} else { // here, where the stack is large already: a new goroutine would have to grow one
			errs[i] = do()
		}
	}
	wg.Wait()
	return after.String(), errors.Join(errs...)
}

// lock waits until no process with another state directory changes the rules of this
// network namespace: iptables-nft-restore starts again if another program commits, and
// flushes a chain that it was to create and that exists by then (1.8.3 and later,
// nft_refresh_transaction). Where the file cannot be locked, for instance because /run is
// read-only, nobody is waited for. The error wraps ErrBusy.
//
// The lock is one byte of the file of the xtables lock, at the inode number of the
// namespace. The tools lock that file with flock(2), which does not see such locks.
func (b *Backend) lock(ctx context.Context) (unlock func(), err error) {
	name := cmp.Or(os.Getenv("XTABLES_LOCKFILE"), "/run/xtables.lock") // as the tools have it
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	unlock = func() { _ = f.Close() }
	var ns unix.Stat_t
	err = errors.Join(err, unix.Stat("/proc/thread-self/ns/net", &ns))
	ctx, cancel := context.WithTimeoutCause(ctx, b.Wait, fmt.Errorf("%w: waited %s for a call with another state directory", backend.ErrBusy, b.Wait))
	defer cancel()
	for err == nil {
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: int64(ns.Ino), Len: 1})
		if err == nil {
			return unlock, nil
		}
		if errors.Is(err, unix.EAGAIN) {
			time.Sleep(5 * time.Millisecond)
			if err = context.Cause(ctx); err != nil {
				unlock()
				return nil, fmt.Errorf("lock %s: %w", name, err)
			}
		}
	}
	b.Log.Debug("calls with another state directory are not waited for", "reason", err)
	return unlock, nil
}
