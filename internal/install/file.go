package install

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/fault"
)

// Suffixes of files that we create next to those of a runtime. No runtime loads
// them: libcni reads *.conflist, *.conf and *.json.
const (
	backupSuffix  = ".hostport-backup"
	removedSuffix = ".hostport-removed" // an entry of ours that was removed
	newSuffix     = ".hostport-new"
)

// pointNew is where a killed installer leaves a new file that is not in place
// yet, or an old one that no longer is.
const pointNew = "install-new"

// place writes a file by a rename within its directory, and syncs both. A file
// that is there keeps its mode and its owner; a new one has those of like. If
// path is a symbolic link, its target is replaced.
func place(path, like string, content io.Reader, mode fs.FileMode) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	} else if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s leads nowhere", path)
	}
	dir := filepath.Dir(path)
	temporary := filepath.Join(dir, "."+filepath.Base(path)+newSuffix)
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return explain(err)
	}
	err = errors.Join(fill(f, like, content, mode), f.Close())
	fault.Point(pointNew)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(explain(err), os.Remove(temporary))
	}
	return syncDir(dir)
}

// fill writes content to a new file, gives it the mode and owner of like, or
// else mode, and syncs it.
func fill(f *os.File, like string, content io.Reader, mode fs.FileMode) error {
	if like != "" {
		var is, want unix.Stat_t
		if err := errors.Join(unix.Stat(like, &want), unix.Fstat(int(f.Fd()), &is)); err != nil {
			return fmt.Errorf("read mode and owner of %s: %w", like, err)
		}
		mode = fs.FileMode(want.Mode & 0o777)
		if is.Uid != want.Uid || is.Gid != want.Gid {
			if err := f.Chown(int(want.Uid), int(want.Gid)); err != nil {
				return err
			}
		}
	}
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	return errors.Join(f.Chmod(mode), f.Sync())
}

// syncDir makes a rename or a removal in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// explain adds advice to errors that operators meet.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: choose the directory that the runtime reads with --bin-dir or --conf-dir", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run it as root; under SELinux a container needs the type spc_t", err)
	default:
		return err
	}
}

// reload makes a runtime that watches dir read it again: runtimes notice
// renames and removals in it, but not changes in subdirectories.
func reload(dir string) error {
	from, to := filepath.Join(dir, ".reload"+newSuffix), filepath.Join(dir, ".reloaded"+newSuffix)
	if err := os.WriteFile(from, nil, 0o600); err != nil {
		return explain(err)
	}
	return errors.Join(os.Rename(from, to), os.Remove(to))
}

// remove atomically removes a file, or a directory with its contents: if we are
// killed, the remains have a name that nothing reads.
func remove(path string) error {
	dir := filepath.Dir(path)
	temporary := filepath.Join(dir, "."+filepath.Base(path)+newSuffix)
	if err := os.Rename(path, temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return explain(err)
	}
	fault.Point(pointNew)
	return errors.Join(os.RemoveAll(temporary), syncDir(dir))
}

// lock excludes other installers from a directory until unlock is called, and
// removes what a killed installer has left in it.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(d.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), d.Close())
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".*"+newSuffix))
	for _, path := range left {
		_ = os.RemoveAll(path) // harmless in a directory that cannot be written
	}
	return func() { _ = d.Close() }, nil // which unlocks
}

// sameContent reports whether both files exist and are equal.
func sameContent(a, b string) (bool, error) {
	x, err := sum(a)
	if err != nil {
		return false, err
	}
	y, err := sum(b)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return bytes.Equal(x, y), err
}

func sum(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return h.Sum(nil), err
}
