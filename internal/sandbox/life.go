package sandbox

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Look finds out whether a sandbox is dead, and else where it is. It is alive if its
// path leads to the recorded inode, and to the recorded device unless that is 0. A path
// that leads to nothing, or to something else, is not enough to call it dead: the
// sandbox may be mounted out of the caller's sight, or live on with its processes.
// Then the inode is searched for in the caller's mounts, in the network namespaces
// of all processes, and in the mounts of all other mount namespaces.
//
// The kernel gives the inode number of a network namespace that was freed to
// the next one that is created. So a namespace that is found mounted, but only
// under other names than the recorded path's, is another sandbox, and the
// recorded one is dead.
//
// path is "" unless the caller sees the sandbox mounted. An error says what could not
// be read, so that nothing is known. Namespaces that only an open file or a socket
// keeps are not found.
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

// found reports whether the namespace is mounted under the name that the path ends
// with. The directory is not compared: a container has the node's in another
// place. A path in /proc names a process and no mount; with it, and without a
// path, any mount counts, and any process.
func (s *search) found() bool {
	if s.name == "" || strings.HasPrefix(s.name, "/proc/") {
		return s.inhabited || len(s.mounts) > 0
	}
	return slices.ContainsFunc(s.mounts, func(m string) bool { return filepath.Base(m) == filepath.Base(s.name) })
}
