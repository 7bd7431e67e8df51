package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

const (
	dbName   = "state.db"
	lockName = "lock"
)

// Exists reports whether dir holds a state file. A node on which no pod ever had
// a host port has none.
func Exists(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, dbName))
	return !errors.Is(err, os.ErrNotExist)
}

// Mentions reports whether the state file may have a record of an attachment. It
// looks for the key's text without the lock, so it may find a record that was
// deleted, and miss one that is being written.
func Mentions(dir string, k hostport.Key) bool {
	// An os.File would have the runtime start its poller.
	fd, err := unix.Open(filepath.Join(dir, dbName), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	key := []byte(k.String())
	buffer := make([]byte, 16<<10+len(key))
	for kept := 0; ; { // the end of a piece, in which the key may begin
		n, err := unix.Read(fd, buffer[kept:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 {
			return false
		}
		end := buffer[:kept+n]
		if bytes.Contains(end, key) {
			return true
		}
		kept = copy(buffer, end[max(0, len(end)-len(key)+1):])
	}
}

// Usable returns an error if dir cannot hold the state: it cannot be created, it
// belongs to another user, or the lock cannot be opened. It is for STATUS. A
// missing directory is created.
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

// prepare creates the directory and refuses one that others could tamper with.
func prepare(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("state directory %q: not an absolute path", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create state directory: %w", err)
	}
	fi, err := safe(dir)
	if err != nil {
		return err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("close state directory to others: %w", err)
		}
	}
	return nil
}

// safe refuses a symbolic link, and a directory of another user.
func safe(dir string) (os.FileInfo, error) {
	fi, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("look at state directory: %w", err)
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("state directory %q: is a symbolic link or not a directory", dir)
	}
	return fi, owned(dir, fi)
}

// owned refuses a file of another user.
func owned(path string, fi os.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%q belongs to user %d, not to user %d", path, st.Uid, os.Geteuid())
	}
	return nil
}

// openFile opens a regular file that belongs to this user. It does not follow
// symbolic links and does not wait for the other end of a FIFO.
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
