package sandbox

import (
	"fmt"
	"os"
	"syscall"

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
	own, err := Host()
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
	own, _ := Host()
	return theirs.Same(own) // a namespace that cannot be read is the same as none
}

// Host returns the network namespace that the calling thread is in, which may
// differ from the process's: Go programs enter namespaces thread by thread.
func Host() (hostport.Sandbox, error) {
	own, err := stat("/proc/thread-self/ns/net")
	own.Path = ""
	return own, err
}

func stat(path string) (hostport.Sandbox, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return hostport.Sandbox{}, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	return hostport.Sandbox{Path: path, Device: uint64(st.Dev), Inode: st.Ino}, nil
}
