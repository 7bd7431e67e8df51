// Package sandbox identifies network namespaces, distinguishes the node's own
// from others, and determines whether one still exists.
//
// It reads /proc and stats files. It enters no namespace, changes nothing and
// uses no netlink, because each pod start would pay for that.
//
// It sees only what the calling thread sees. A container runtime may mount sandboxes in
// a mount namespace of its own, which only the plugin is sure to share: View.Sees reports
// whether a process may declare a sandbox dead.
package sandbox

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Identify returns the network namespace at path: its device and inode, the pair by which
// the kernel itself identifies namespaces (ioctl_ns(2)). Symbolic links are followed; the
// path is returned as given. It refuses a file that is no namespace. A path to nothing is
// an error for which errors.Is(err, fs.ErrNotExist) holds.
func Identify(path string) (hostport.Sandbox, error) {
	s, err := stat(path)
	if err != nil {
		return hostport.Sandbox{}, fmt.Errorf("identify sandbox: %w", err)
	}
	own, err := stat(ownNamespace)
	if err != nil {
		return hostport.Sandbox{}, err
	}
	if s.Device != own.Device { // all namespaces of a kernel are on one device
		return hostport.Sandbox{}, fmt.Errorf("identify sandbox %s: not a network namespace: it is an ordinary file", path)
	}
	return s, nil
}

// IsHost reports whether the file at path is the network namespace that the
// calling thread is in, which is the node's own when a runtime calls the plugin.
func IsHost(path string) bool {
	theirs, _ := stat(path)
	own, _ := stat(ownNamespace)
	return theirs.Same(own) // a namespace that cannot be read is the same as none
}

// ownNamespace is the network namespace that the calling thread is in, which may
// differ from the process's: Go programs enter namespaces thread by thread.
const ownNamespace = "/proc/thread-self/ns/net"

func stat(path string) (hostport.Sandbox, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return hostport.Sandbox{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return hostport.Sandbox{Path: path, Device: uint64(st.Dev), Inode: st.Ino}, nil
}

// View identifies the namespaces from which a process looks at the node's
// processes and mounts, by their inodes.
type View struct{ PID, Mount uint64 }

// OwnView returns the view of the calling thread.
func OwnView() (View, error) {
	pid, err := stat("/proc/thread-self/ns/pid")
	mount, merr := stat("/proc/thread-self/ns/mnt")
	return View{PID: pid.Inode, Mount: mount.Inode}, errors.Join(err, merr)
}

// Sees reports whether a process with view v sees every sandbox that the
// container runtime sees: it shares the runtime's PID namespace, and the mount
// namespace of the runtime or of PID 1. It returns false if runtime is zero, that
// is, if the runtime's view is unknown.
func (v View) Sees(runtime View) bool {
	init, err := stat("/proc/1/ns/mnt")
	return runtime != (View{}) && v.PID == runtime.PID && (v.Mount == runtime.Mount || err == nil && v.Mount == init.Inode)
}
