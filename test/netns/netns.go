// Package netns creates network namespaces for tests, and compares the packet
// filter rules in them.
package netns

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// New creates a network namespace that is mounted until the test ends, or until
// Remove. Its lo is down. It fails a test that does not run as root.
func New(t testing.TB) ns.NetNS {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cni-"+rand.Text())
	if err := Mount(path); err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := Unmount(path); err != nil {
			t.Error(err)
		}
	})
	n, err := ns.GetNS(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// Enter moves the calling goroutine, which must be the test's, into a new
// network namespace for the rest of the test.
func Enter(t testing.TB) ns.NetNS {
	t.Helper()
	n := New(t)
	runtime.LockOSThread() // never unlocked: the thread ends with the test's goroutine
	if err := n.Set(); err != nil {
		t.Fatal(err)
	}
	return n
}

// Remove unmounts a namespace, as a runtime does when a pod ends.
func Remove(t testing.TB, n ns.NetNS) {
	t.Helper()
	if err := errors.Join(n.Close(), Unmount(n.Path())); err != nil {
		t.Fatal(err)
	}
}

// Mount creates a network namespace and binds it to path, a file that it
// creates.
func Mount(path string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("only root can: run the test as root")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	done := make(chan error)
	go func() { done <- bind(path) }()
	return <-done
}

// bind does the work of Mount on a separate thread.
func bind(path string) error {
	runtime.LockOSThread()
	own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	before, err := os.Open(own)
	if err != nil {
		return err
	}
	defer before.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = unix.Mount(own, path, "none", unix.MS_BIND, "")
	// A thread that cannot return stays locked, and exits with its goroutine.
	if back := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

// Unmount undoes Mount. The kernel frees the namespace with its last process
// and socket. Unmounting twice is not an error.
func Unmount(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
