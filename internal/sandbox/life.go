package sandbox

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Look determines whether a sandbox is dead, and if not, where it is. It is alive if
// its path leads to the recorded inode, and to the recorded device unless that is 0. If
// the path leads to nothing, or to something else, that does not prove it dead: the
// sandbox may be mounted where the caller does not see it, or be kept alive by its
// processes. So the inode is searched for in the caller's mounts, in the network
// namespaces of all processes, and in the mounts of all other mount namespaces.
//
// The kernel gives the inode number of a network namespace that was freed to
// the next one that is created. So a namespace that is found mounted, but only
// under other names than the recorded path's, is another sandbox, and the
// recorded one is dead.
//
// path is "" unless the caller sees the sandbox mounted. On error, which says what
// could not be read, the result is unknown. Namespaces kept only by an open file or a
// socket are not found.
func Look(s hostport.Sandbox) (path string, dead bool, err error) {
	if s.Inode == 0 {
		return "", false, fmt.Errorf("look for sandbox %q: its inode is not known", s.Path)
	}
	there, unread := stat(s.Path)
	if unread == nil && there.Inode == s.Inode && (s.Device == 0 || there.Device == s.Device) {
		return s.Path, false, nil
	}
	if gone(unread) { // as an empty path is
		unread = nil
	}
	own, err := stat(ownNamespace)
	if err != nil {
		return "", false, err
	}
	if s.Device != 0 && s.Device != own.Device { // see Identify
		return "", true, nil
	}
	look := search{inode: s.Inode, name: s.Path}
	err = errors.Join(unread, look.run())
	if look.found() || look.inhabited && len(look.mounts) == 0 {
		return look.path, false, nil
	}
	return "", err == nil, err
}

// search is a search for a network namespace, with the places where it was found.
type search struct {
	inode uint64
	name  string // its path, if known

	path      string   // the first mount point that the caller sees
	mounts    []string // all mount points, also in other mount namespaces
	inhabited bool     // a process is in it
}

// run searches as Look says, in main threads, until the namespace is found. The error is
// one of those that remain after the last try.
func (s *search) run() error {
	if err := s.readMounts("thread-self"); err != nil {
		return err
	}
	if len(s.mounts) > 0 {
		s.path = s.mounts[0]
	}
	if s.found() {
		return nil
	}
	processes, err := os.ReadDir("/proc")
	view, verr := OwnView()
	if err = errors.Join(err, verr); err != nil {
		return err
	}
	seen := map[uint64]bool{view.Mount: true} // mount namespaces
	// A process that is executing a program or exiting cannot be read for a moment (EACCES).
	for round := 0; ; round++ {
		var refused []os.DirEntry
		for _, process := range processes {
			if perr := s.visit(process.Name(), seen); perr != nil {
				refused, err = append(refused, process), perr
			}
			if s.found() {
				return nil
			}
		}
		if len(refused) == 0 {
			if s.inhabited {
				return s.readMounts("thread-self") // it may have been mounted there since
			}
			return nil
		}
		if round == 10 {
			return err
		}
		time.Sleep(20 * time.Millisecond)
		processes = refused
	}
}

// found reports whether the namespace is mounted under the last element of the
// path. The directory is not compared: in a container, the node's has another
// path. A path in /proc names a process, not a mount; with one, or without a path,
// any mount or process counts.
func (s *search) found() bool {
	if s.name == "" || strings.HasPrefix(s.name, "/proc/") {
		return s.inhabited || len(s.mounts) > 0
	}
	return slices.ContainsFunc(s.mounts, func(m string) bool { return filepath.Base(m) == filepath.Base(s.name) })
}

// visit looks at a process, and at the mounts of its mount namespace unless they
// are in seen.
func (s *search) visit(pid string, seen map[uint64]bool) error {
	if _, err := strconv.ParseUint(pid, 10, 32); err != nil {
		return nil // not a process: self, sys, irq
	}
	network, err := stat("/proc/" + pid + "/ns/net")
	mount, merr := stat("/proc/" + pid + "/ns/mnt")
	s.inhabited = s.inhabited || network.Inode == s.inode
	if err = cmp.Or(err, merr); err == nil && !seen[mount.Inode] {
		err = s.readMounts(pid)
		seen[mount.Inode] = err == nil
	}
	// Init may be hidden even from root, by another user namespace or a security
	// module, and is never in a sandbox. EINVAL: a zombie.
	if pid == "1" || gone(err) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// readMounts reads the mounts that a process sees.
func (s *search) readMounts(process string) error {
	b, err := os.ReadFile("/proc/" + process + "/mountinfo")
	s.mounts = append(s.mounts, mountPoints(b, s.inode)...)
	return err
}

// mountPoints returns where a network namespace is mounted according to a mountinfo file
// (proc_pid_mountinfo(5)). The root of such a mount is "net:[INODE]", and only file system
// type nsfs has roots of this form that are not file names.
func mountPoints(mountinfo []byte, inode uint64) (points []string) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	root := "net:[" + strconv.FormatUint(inode, 10) + "]"
	for line := range bytes.Lines(mountinfo) {
		if !bytes.Contains(line, []byte(root)) {
			continue
		}
		// ID parent major:minor root mountpoint options [tag...] - type source options
		before, after, _ := strings.Cut(string(line), " - ")
		f := strings.Fields(before)
		if len(f) > 5 && f[3] == root && strings.HasPrefix(after, "nsfs ") {
			points = append(points, unescape.Replace(f[4]))
		}
	}
	return points
}

// gone reports whether err means that there is no such file. A path through
// /proc/PID returns ESRCH, and one below a directory that became a file ENOTDIR.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOTDIR)
}
