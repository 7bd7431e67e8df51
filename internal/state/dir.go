package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dbName   = "state.db"
	lockName = "lock"
)

// ErrLocked is wrapped by Open's error when another process kept the lock for
// the whole timeout.
var ErrLocked = errors.New("state is locked by another process")

// Exists reports whether dir holds a state file at all. A node on which no pod
// ever had a host port has none, and a DEL there is done.
func Exists(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, dbName))
	return !errors.Is(err, os.ErrNotExist)
}

// Usable reports whether dir can hold the state: it exists or can be made, it
// is ours alone, and the lock can be opened. It is for STATUS and leaves the
// directory behind.
func Usable(dir string) error {
	if err := prepare(dir); err != nil {
		return err
	}
	f, err := openLock(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return fmt.Errorf("write to state directory %q: %w", dir, err)
	}
	return nil
}

// prepare makes the directory and refuses one that others could tamper with.
func prepare(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("state directory %q: not an absolute path", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at state directory: %w", err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("state directory %q: is a symbolic link or not a directory", dir)
	}
	if err := owned(dir, fi); err != nil {
		return err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("close state directory to others: %w", err)
		}
	}
	return nil
}

// owned refuses what belongs to another user.
func owned(path string, fi os.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%q belongs to user %d, not to user %d", path, st.Uid, os.Geteuid())
	}
	return nil
}

// openFile opens a file of ours. It never follows a symbolic link in its place,
// and does not wait for the other end of a FIFO.
func openFile(name string, flag int, perm os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, perm)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%q is a symbolic link: refused", name)
	}
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%q is not a regular file: refused", name)
	}
	if err == nil {
		err = owned(name, fi)
	}
	if err == nil && fi.Mode().Perm()&0o077 != 0 {
		err = f.Chmod(0o600)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func openLock(dir string) (*os.File, error) {
	f, err := openFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open state lock: %w", err)
	}
	return f, nil
}

// lock takes the node-wide lock. The kernel queues blocked flock calls and
// wakes the next one at once, where bbolt's own lock is polled every 50 ms:
// with a hundred pods starting together that is the difference between the
// sum of their work and minutes.
func lock(ctx context.Context, dir string, timeout time.Duration) (*os.File, error) {
	f, err := openLock(dir)
	if err != nil {
		return nil, err
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return nil, fmt.Errorf("lock state: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	got := make(chan error)
	go func() {
		err := flock(f, unix.LOCK_EX)
		select {
		case got <- err:
		case <-ctx.Done(): // nobody waits any more: closing gives the lock back
			f.Close()
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock state: %w", err)
		}
		return f, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for %q: %w for %v", f.Name(), ErrLocked, timeout)
	}
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
