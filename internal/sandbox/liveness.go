package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Alive reports whether the sandbox still exists.
//
// With a path it does when the path leads to the recorded inode, and to the
// recorded device unless that is 0. Where the path leads to a file that is no
// namespace at all, the path alone cannot tell a sandbox that was unmounted
// from one that is mounted out of the caller's sight, so the sandbox is
// searched for as if it had no path.
//
// Without a path it exists when a mount that the caller can see, or the main
// thread of a process that the caller can see, is in a network namespace with
// that inode. Namespaces that only an open file or a socket keeps are not seen.
//
// The kernel gives a namespace's inode number to another one soon after it is
// free, so a sandbox without a path may be taken for alive when it is gone. The
// reverse cannot happen where the doc of this package is heeded.
//
// A file that does not exist is an answer. Any other failure (EACCES, EIO) is
// an error: the caller must not take it for death. So is a sandbox with no
// inode, for which there is no answer.
func Alive(s hostport.Sandbox) (bool, error) {
	if s.Inode == 0 {
		return false, fmt.Errorf("look for sandbox %q: its inode is not known", s.Path)
	}
	if s.Path == "" {
		return search(s.Inode)
	}
	found, err := stat(s.Path)
	switch {
	case gone(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("stat sandbox %s: %w", s.Path, err)
	case found.Inode == s.Inode && (s.Device == 0 || found.Device == s.Device):
		return true, nil
	}
	var fs unix.Statfs_t
	err = retry(func() error { return unix.Statfs(s.Path, &fs) })
	switch {
	case gone(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("statfs sandbox %s: %w", s.Path, err)
	case int64(fs.Type) == unix.NSFS_MAGIC:
		return false, nil // another namespace took its place
	}
	return search(s.Inode)
}

// search looks for a network namespace by its inode alone.
func search(inode uint64) (bool, error) {
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return false, fmt.Errorf("list mounts: %w", err)
	}
	if mounted(mounts, inode) {
		return true, nil
	}
	return inhabited(inode)
}

// mounted finds a network namespace in the text of a mountinfo file
// (proc_pid_mountinfo(5)). A mounted namespace's root is "net:[INODE]", and
// only file system type nsfs has such roots that are not file names.
func mounted(mountinfo []byte, inode uint64) bool {
	root := []byte("net:[" + strconv.FormatUint(inode, 10) + "]")
	for line := range bytes.Lines(mountinfo) {
		if !bytes.Contains(line, root) {
			continue
		}
		// ID parent major:minor root mountpoint options [tag...] - type source options
		f := bytes.Fields(line)
		if len(f) < 7 || !bytes.Equal(f[3], root) {
			continue
		}
		for i := 6; i+1 < len(f); i++ {
			if string(f[i]) == "-" {
				if string(f[i+1]) == "nsfs" {
					return true
				}
				break
			}
		}
	}
	return false
}

// inhabited finds a process in a network namespace.
func inhabited(inode uint64) (bool, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return false, fmt.Errorf("list processes: %w", err)
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return false, fmt.Errorf("list processes: %w", err)
	}
	var unseen error
	for _, pid := range names {
		if _, err := strconv.ParseUint(pid, 10, 32); err != nil {
			continue
		}
		ns, err := stat("/proc/" + pid + "/ns/net")
		switch {
		case err == nil && ns.Inode == inode:
			return true, nil
		case err == nil || gone(err) || pid == "1":
			// Init may be hidden even from root (another user namespace, a
			// security module), and is never what keeps a sandbox.
		default:
			// A process that ends during the look-up may answer EACCES as
			// well: it counts only if it is still there.
			if _, again := stat("/proc/" + pid + "/ns/net"); again != nil && !gone(again) {
				unseen = fmt.Errorf("read network namespace of process %s: %w", pid, again)
			}
		}
	}
	return false, unseen
}

// gone tells "it does not exist" from other failures. A path through /proc/PID
// answers ESRCH, and one below a directory that became a file ENOTDIR.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOTDIR)
}
