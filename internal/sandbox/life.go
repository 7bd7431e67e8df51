package sandbox

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

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
	var unread error
	if s.Path != "" {
		found, err := stat(s.Path)
		if err == nil && found.Inode == s.Inode && (s.Device == 0 || found.Device == s.Device) {
			return s.Path, false, nil
		}
		if err != nil && !gone(err) {
			unread = err
		}
	}
	own, err := Host()
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
