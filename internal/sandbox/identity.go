package sandbox

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// ownNamespace is that of the calling thread, not of the process: Go programs
// enter namespaces thread by thread (the link exists since Linux 3.17).
const ownNamespace = "/proc/thread-self/ns/net"

// Identify tells which network namespace the file at path is: its device and
// inode, the pair by which the kernel itself tells namespaces apart (ioctl_ns(2)).
// Symbolic links are followed; the path is returned as it was given. It refuses
// a file that is no namespace, or one of another kind. A path that leads
// nowhere is an error for which errors.Is(err, fs.ErrNotExist) holds.
func Identify(path string) (hostport.Sandbox, error) {
	// NONBLOCK and NOCTTY: should the path be a FIFO or a terminal, opening it
	// must neither wait nor adopt it.
	fd, err := open(path)
	if err != nil {
		return hostport.Sandbox{}, fmt.Errorf("open sandbox %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()

	var fs unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(fd, &fs) }); err != nil {
		return hostport.Sandbox{}, fmt.Errorf("statfs sandbox %s: %w", path, err)
	}
	if int64(fs.Type) != unix.NSFS_MAGIC {
		return hostport.Sandbox{}, fmt.Errorf("identify sandbox %s: not a network namespace: it is an ordinary file, on a file system of type %#x", path, fs.Type)
	}
	// Before Linux 4.11 a namespace does not tell its kind (ENOTTY): trust it.
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err == nil && kind != unix.CLONE_NEWNET {
		return hostport.Sandbox{}, fmt.Errorf("identify sandbox %s: not a network namespace: it is a namespace of another kind (%#x)", path, kind)
	}
	if err != nil && !errors.Is(err, unix.ENOTTY) {
		return hostport.Sandbox{}, fmt.Errorf("read namespace kind of sandbox %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return hostport.Sandbox{}, fmt.Errorf("stat sandbox %s: %w", path, err)
	}
	return hostport.Sandbox{Path: path, Device: uint64(st.Dev), Inode: st.Ino}, nil
}

// IsHost reports whether the file at path is the network namespace that the
// calling thread is in, which is the node's own when a runtime calls the
// plugin. It costs two stat calls. A path that leads nowhere is an error for
// which errors.Is(err, fs.ErrNotExist) holds; a file that is no namespace is
// not the node's, and no error.
func IsHost(path string) (bool, error) {
	theirs, err := stat(path)
	if err != nil {
		return false, fmt.Errorf("stat sandbox %s: %w", path, err)
	}
	own, err := Host()
	if err != nil {
		return false, err
	}
	return theirs.Same(own), nil
}

// Host is the network namespace that the calling thread is in, without a path.
func Host() (hostport.Sandbox, error) {
	own, err := stat(ownNamespace)
	if err != nil {
		return hostport.Sandbox{}, fmt.Errorf("stat own network namespace: %w", err)
	}
	own.Path = ""
	return own, nil
}

// open opens for reading only. O_PATH would do for everything but the ioctl.
func open(path string) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		return err
	})
	return fd, err
}

// stat is os.Stat without the allocations of its FileInfo.
func stat(path string) (hostport.Sandbox, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Stat(path, &st) }); err != nil {
		return hostport.Sandbox{}, err
	}
	return hostport.Sandbox{Path: path, Device: uint64(st.Dev), Inode: st.Ino}, nil
}

// retry repeats a call that a signal interrupted. The Go runtime sends itself
// signals to preempt goroutines, and file systems in user space or on a network
// let them through.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
