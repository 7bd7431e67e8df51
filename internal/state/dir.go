package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The files in the state directory. Those for monitoring are beside the records, so that
// writing them neither waits for the lock nor touches the database, and they may be lost.
const (
	dbName       = "state.db"
	lockName     = "lock"
	countsName   = "counts"   // a pair of numbers for each name, in the order of countNames
	refusalsName = "refusals" // the last refusals
)

// Exists reports whether dir holds a state file. A node on which no pod ever had
// a host port has none.
func Exists(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, dbName))
	return !errors.Is(err, os.ErrNotExist)
}

// Written returns when the state file was last written, the zero Time if there is none.
func Written(dir string) time.Time {
	fi, err := os.Lstat(filepath.Join(dir, dbName))
	if err != nil {
		return time.Time{}
	}
	return fi.ModTime()
}

// Mentions reports whether the state file may mention a container, in records or in what
// is pending. It looks for the end of the ID without the lock, so it may find what was
// deleted, and miss what is being written or what two transactions move while it reads.
// For a file that it cannot read it returns true: Open will return the error.
func Mentions(dir, containerID string) bool {
	// A file of package os is slower to open: it would make an epoll instance first.
	fd, err := unix.Open(filepath.Join(dir, dbName), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	defer unix.Close(fd)
	var fi unix.Stat_t
	if err := unix.Fstat(fd, &fi); err != nil || fi.Mode&unix.S_IFMT != unix.S_IFREG {
		return true
	}
	id := []byte(containerID)
	id = id[max(0, len(id)-32):] // bytes.Contains takes three times as long for more than 63
	var b [16 << 10]byte
	left := fi.Size
	for kept := 0; ; { // bytes of the read before, which may have ended within the ID
		n, err := unix.Read(fd, b[kept:])
		if n <= 0 {
			return err != nil || left > 0 // it was cut meanwhile, as by cp
		}
		left -= int64(n)
		n += kept
		if bytes.Contains(b[:n], id) {
			return true
		}
		kept = copy(b[:], b[max(0, n-len(id)):n])
	}
}

// Usable returns an error if dir cannot hold the state: it belongs to another user, it
// or the directory to create it in is not writable, or a file in it cannot be opened. It
// is for STATUS, and creates nothing.
func Usable(dir string) error {
	err, at := ownDir(dir, 0), dir
	for errors.Is(err, os.ErrNotExist) && at != filepath.Dir(at) {
		at = filepath.Dir(at)
		_, err = os.Stat(at)
	}
	if err != nil {
		return err
	}
	if err := unix.Access(at, unix.W_OK); err != nil {
		return fmt.Errorf("write to %q for state directory %q: %w", at, dir, err)
	}
	for _, name := range []string{lockName, dbName} {
		f, err := openOwn(filepath.Join(dir, name), os.O_RDWR, 0)
		if err == nil {
			f.Close()
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Remove removes the state, and the directory if nothing else is in it. It is
// for the end of an installation: no process may use the state meanwhile.
func Remove(dir string) error {
	var errs []error
	for _, name := range []string{dbName, countsName, refusalsName, lockName} {
		if err := os.Remove(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	_ = os.Remove(dir) // which may hold other files
	return errors.Join(errs...)
}

// openIn opens a file in the directory, and creates the file if it is missing.
func openIn(dir, name string) (*os.File, error) {
	if err := ownDir(dir, 0o700); err != nil {
		return nil, err
	}
	return openOwn(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
}

// ownDir returns an error unless dir is an absolute path to a directory owned by this
// user. perm may be 0, as for openOwn.
func ownDir(dir string, perm os.FileMode) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("state directory %q: not an absolute path", dir)
	}
	d, err := openOwn(dir, os.O_RDONLY, os.ModeDir|perm)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return d.Close()
}

// openOwn opens a regular file, or a directory if perm has os.ModeDir, and removes
// other users' permissions on it, unless all other bits of perm are 0. It refuses a
// file of another user and a directory that is shared, does not follow symbolic links
// and does not block on a FIFO. The error wraps a unix.Errno.
func openOwn(name string, flag int, perm os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, perm)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil {
		st, ok := fi.Sys().(*syscall.Stat_t)
		switch {
		case fi.Mode().Type() != perm.Type():
			err = fmt.Errorf("%w: %q is not a %s", unix.EPERM, name, map[bool]string{false: "regular file", true: "directory"}[perm.IsDir()])
		case ok && int(st.Uid) != os.Geteuid():
			err = fmt.Errorf("%w: %q belongs to user %d, not to user %d", unix.EPERM, name, st.Uid, os.Geteuid())
		case perm.IsDir() && fi.Mode().Perm()&0o077 != 0 && shared(f):
			err = fmt.Errorf("%w: %q holds files of others: dataDir must be a directory of the plugin's own", unix.EPERM, name)
		case perm.Perm() != 0 && fi.Mode().Perm()&0o077 != 0:
			err = f.Chmod(perm.Perm())
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// shared reports whether a directory holds no state, but files of other programs, as /run
// does: its permissions must not be changed. The root of a file system has lost+found.
func shared(d *os.File) bool {
	names, err := d.Readdirnames(-1)
	return err != nil || !slices.Contains(names, dbName) && slices.ContainsFunc(names, func(name string) bool {
		return !slices.Contains([]string{lockName, countsName, refusalsName, "agent.sock", "lost+found"}, name) && !strings.HasPrefix(name, dbName)
	})
}
