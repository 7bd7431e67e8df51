package iptables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
)

// lock waits until no process with another state directory changes the rules of this
// network namespace. The tools of the nf_tables variant do not keep two of them apart: if
// another program commits at the same time, iptables-restore starts again, and a chain
// that it was told to create and that exists by then is flushed instead (iptables 1.8.3
// and later, nft_refresh_transaction). Without the file, for instance because /run is
// read-only, nothing is locked. The error wraps ErrBusy.
//
// The lock is one byte of the file of the xtables lock, at the inode number of the
// namespace. The tools lock that file with flock(2), which does not see such locks.
func (b *Backend) lock(ctx context.Context) (unlock func(), err error) {
	name := cmp.Or(os.Getenv("XTABLES_LOCKFILE"), "/run/xtables.lock") // as the tools have it
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		b.Log.Debug("changes of other state directories are not waited for", "reason", err)
		return func() {}, nil
	}
	unlock = func() { _ = f.Close() }
	var ns unix.Stat_t
	err = unix.Stat("/proc/thread-self/ns/net", &ns)
	ctx, cancel := context.WithTimeoutCause(ctx, b.Wait, fmt.Errorf("%w: waited %s", backend.ErrBusy, b.Wait))
	defer cancel()
	for err == nil {
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: int64(ns.Ino), Len: 1})
		if err == nil {
			return unlock, nil
		}
		if errors.Is(err, unix.EAGAIN) {
			time.Sleep(5 * time.Millisecond)
			err = context.Cause(ctx)
		}
	}
	unlock()
	return nil, fmt.Errorf("lock %s: %w", name, err)
}
