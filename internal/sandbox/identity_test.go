package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/netns"
)

func TestIdentify(t *testing.T) {
	a, b := netns.New(t), netns.New(t)
	sa, err := Identify(a.Path())
	if err != nil {
		t.Fatal(err)
	}
	sb, err := Identify(b.Path())
	if err != nil {
		t.Fatal(err)
	}
	if sa.Path != a.Path() || sa.Inode == 0 || sa.Device == 0 {
		t.Errorf("Identify(%s) = %+v, want path, device and inode", a.Path(), sa)
	}
	if sa.Same(sb) {
		t.Errorf("two namespaces are told to be one: %+v, %+v", sa, sb)
	}

	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(a.Path(), link); err != nil {
		t.Fatal(err)
	}
	linked, err := Identify(link)
	if err != nil {
		t.Fatal(err)
	}
	if !linked.Same(sa) || linked.Path != link {
		t.Errorf("Identify by a symbolic link = %+v, want the inode of %+v and the path as given", linked, sa)
	}
	err = a.Do(func(ns.NetNS) error {
		inside, err := Identify("/proc/thread-self/ns/net")
		if err == nil && !inside.Same(sa) {
			t.Errorf("Identify from within = %+v, want %+v", inside, sa)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestIdentifyRefuses(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, path, want string }{
		{"plain file", plain, "ordinary file"},
		{"directory", dir, "ordinary file"},
		{"fifo without writer", fifo, "ordinary file"},
		{"process status", "/proc/self/status", "ordinary file"},
		{"nothing", filepath.Join(dir, "absent"), "no such file"},
		{"empty path", "", "no such file"},
		{"below a file", filepath.Join(plain, "ns"), "not a directory"},
		{"NUL in path", "/run/netns/a\x00b", "invalid argument"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			done := make(chan error, 1)
			go func() {
				_, err := Identify(tc.path)
				done <- err
			}()
			select {
			case err := <-done:
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("Identify(%q) says %v, want %q in it", tc.path, err, tc.want)
				}
				if want := tc.want == "no such file"; errors.Is(err, fs.ErrNotExist) != want {
					t.Errorf("Identify(%q): is ErrNotExist = %v, want %v", tc.path, !want, want)
				}
			case <-time.After(10 * time.Second):
				t.Errorf("Identify(%q) hangs", tc.path)
			}
		})
	}
}

func TestIsHost(t *testing.T) {
	pod, node := netns.New(t), netns.New(t)
	check := func(path string, want bool) {
		t.Helper()
		if got := IsHost(path); got != want {
			t.Errorf("IsHost(%s) = %v, want %v", path, got, want)
		}
	}
	check("/proc/thread-self/ns/net", true)
	check(pod.Path(), false)
	check(node.Path(), false)
	err := node.Do(func(ns.NetNS) error {
		check(node.Path(), true) // the thread's namespace, not the process's
		check(pod.Path(), false)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	check("/run/netns/never-made", false)
}

// BenchmarkIsHost is what every pod start pays.
func BenchmarkIsHost(b *testing.B) {
	pod := netns.New(b)
	b.ReportAllocs()
	for b.Loop() {
		if IsHost(pod.Path()) {
			b.Fatal("the pod's is the node's")
		}
	}
}
