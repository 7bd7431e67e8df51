package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrLocked is wrapped by Open's error if another process held the lock for
// the whole timeout.
var ErrLocked = errors.New("state is locked by another process")

// lock takes the node-wide lock. The kernel queues blocked flock calls and wakes the next
// one at once; bbolt polls its own lock every 50 ms, which takes minutes for a hundred pods
// that start together.
func lock(ctx context.Context, o Options) (*os.File, error) {
	f, err := openLock(o)
	if err != nil {
		return nil, err
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		ctx, cancel := context.WithTimeout(ctx, o.Timeout)
		defer cancel()
		got := make(chan error, 1)
		go func() { got <- flock(f, unix.LOCK_EX) }()
		select {
		case err = <-got:
		case <-ctx.Done():
			go func() { _ = errors.Join(<-got, f.Close()) }() // flock cannot be cancelled, and may still get the lock
			return nil, fmt.Errorf("wait for %q: %w for %v", f.Name(), ErrLocked, o.Timeout)
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock state: %w", err)
	}
	return f, nil
}

// openLock opens the lock file. If there is none and o.ReadOnly is set, it opens
// the directory instead: bbolt's own lock on the state file must then suffice.
func openLock(o Options) (*os.File, error) {
	if !o.ReadOnly {
		f, err := openIn(o.Dir, lockName)
		if !errors.Is(err, os.ErrNotExist) {
			return f, err
		}
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("create state directory: %w", err)
		}
		return openIn(o.Dir, lockName)
	}
	if err := ownDir(o.Dir, 0); err != nil {
		return nil, err
	}
	f, err := openOwn(filepath.Join(o.Dir, lockName), os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return openOwn(o.Dir, os.O_RDONLY, os.ModeDir)
	}
	return f, err
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

const deathsKey = "deaths="

// deaths returns the number of processes that died while using the state file,
// from the lock file. Layout 1 kept something else in it, which counts as 0.
func deaths(lock *os.File) (count int) {
	b := make([]byte, len(deathsKey)+1)
	if _, err := lock.ReadAt(b, 0); err == nil && strings.HasPrefix(string(b), deathsKey) {
		count, _ = strconv.Atoi(string(b[len(deathsKey):]))
	}
	return count
}

// setDeaths writes the count. It ignores errors: on a full disk, a process that
// dies is not counted, nor is one that only reads.
func setDeaths(lock *os.File, count int) {
	_, _ = lock.WriteAt([]byte(deathsKey+strconv.Itoa(min(count, 9))+"\n"), 0)
}
