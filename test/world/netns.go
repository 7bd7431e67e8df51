package world

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/hostport-cni/hostport/test/netns"
)

// Netns is one network namespace, held by a bind mount at Path.
type Netns struct {
	// Name appears in failures and in the answers of servers.
	Name string
	// Path stays the same for the life of the namespace.
	Path string

	t testing.TB
}

// newNetns creates a namespace with its loopback up. It is removed when the
// test ends, or by Close.
func newNetns(t testing.TB, dir, name string) *Netns {
	t.Helper()
	n := &Netns{Name: name, Path: filepath.Join(dir, name), t: t}
	if err := netns.Mount(n.Path); err != nil {
		t.Fatalf("make network namespace %s: %v", name, err)
	}
	t.Cleanup(n.Close)
	// Addresses must be usable at once: disable duplicate address detection, also
	// for interfaces added later.
	if HasIPv6() {
		n.Sysctl("net/ipv6/conf/default/accept_dad", "0")
		n.Sysctl("net/ipv6/conf/all/accept_dad", "0")
	}
	n.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return n
}

// HasIPv6 reports whether the kernel supports IPv6: it may be booted with
// ipv6.disable=1.
func HasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// Close unmounts the namespace and removes its file, as a runtime does with a
// sandbox that has ended. The kernel frees the namespace with its last socket.
// Closing twice is allowed.
func (n *Netns) Close() {
	if err := netns.Unmount(n.Path); err != nil {
		n.t.Error(err)
	}
}

// Try runs f on a thread inside the namespace. Sockets and processes that f
// creates belong to the namespace, even after f has returned; goroutines that f
// starts run outside.
func (n *Netns) Try(f func() error) error {
	return ns.WithNetNSPath(n.Path, func(ns.NetNS) error { return f() })
}

// Do is like Try for steps that have to succeed. Call it from the test's
// goroutine.
func (n *Netns) Do(f func() error) {
	n.t.Helper()
	if err := n.Try(f); err != nil {
		n.t.Fatalf("in %s: %v", n.Name, err)
	}
}

// Sysctl sets a kernel parameter of the namespace, named by its path below
// /proc/sys: "net/ipv4/ip_forward".
func (n *Netns) Sysctl(name, value string) {
	n.t.Helper()
	n.Do(func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0o600) })
}

// ReadSysctl reads a kernel parameter of the namespace.
func (n *Netns) ReadSysctl(name string) string {
	n.t.Helper()
	var value []byte
	n.Do(func() (err error) {
		value, err = os.ReadFile("/proc/sys/" + name)
		return err
	})
	return strings.TrimSpace(string(value))
}

// Command runs a tool of the machine inside the namespace and returns its
// stdout. It fails the test if the tool fails.
func (n *Netns) Command(name string, args ...string) string {
	n.t.Helper()
	out, err := n.TryCommand("", name, args...)
	if err != nil {
		n.t.Fatalf("in %s: %v", n.Name, err)
	}
	return out
}

// TryCommand is like Command, with a stdin, and returns an error instead of
// failing the test. The error holds the tool's stderr.
func (n *Netns) TryCommand(stdin, name string, args ...string) (string, error) {
	var stdout, stderr strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := n.Try(cmd.Start); err != nil {
		return "", fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, stderr.String(), stdin)
	}
	return stdout.String(), nil
}

// Run starts a tool inside the namespace that runs until stop, or the end of
// the test.
func (n *Netns) Run(t testing.TB, name string, args ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command(name, args...)
	if err := n.Try(cmd.Start); err != nil {
		t.Fatalf("start %s in %s: %v", name, n.Name, err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// HasLink reports whether the namespace has an interface of that name.
func (n *Netns) HasLink(name string) bool {
	n.t.Helper()
	err := n.Try(func() error {
		_, err := netlink.LinkByName(name)
		return err
	})
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return false
	}
	if err != nil {
		n.t.Fatalf("in %s: look up interface %s: %v", n.Name, name, err)
	}
	return true
}
