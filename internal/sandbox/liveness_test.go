package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/testutils"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/netns"
)

func alive(t *testing.T, s hostport.Sandbox, want bool) {
	t.Helper()
	got, err := Alive(s)
	if err != nil || got != want {
		t.Errorf("Alive(%+v) = %v, %v; want %v", s, got, err, want)
	}
}

func identify(t *testing.T, path string) hostport.Sandbox {
	t.Helper()
	s, err := Identify(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAliveByPath(t *testing.T) {
	a, b := netns.New(t), netns.New(t)
	s := identify(t, a.Path())
	alive(t, s, true)
	alive(t, hostport.Sandbox{Path: s.Path, Inode: s.Inode}, true)
	alive(t, hostport.Sandbox{Path: s.Path, Device: s.Device + 1, Inode: s.Inode}, false)
	alive(t, hostport.Sandbox{Path: b.Path(), Device: s.Device, Inode: s.Inode}, false)
	alive(t, hostport.Sandbox{Path: s.Path + "-gone", Device: s.Device, Inode: s.Inode}, false)
	alive(t, hostport.Sandbox{Path: "/proc/self/status/ns", Device: s.Device, Inode: s.Inode}, false)

	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := testutils.UnmountNS(a); err != nil {
		t.Fatal(err)
	}
	alive(t, s, false)
}

// A runtime that died between unmounting and removing leaves an empty file; a
// runtime with mounts of its own shows us one as well.
func TestAliveBehindEmptyFile(t *testing.T) {
	a := netns.New(t)
	s := identify(t, a.Path())
	empty := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	alive(t, hostport.Sandbox{Path: empty, Device: s.Device, Inode: s.Inode}, true)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := testutils.UnmountNS(a); err != nil {
		t.Fatal(err)
	}
	alive(t, hostport.Sandbox{Path: empty, Device: s.Device, Inode: s.Inode}, false)
}

func TestAliveByInode(t *testing.T) {
	a := netns.New(t)
	s := identify(t, a.Path())
	alive(t, hostport.Sandbox{Inode: s.Inode}, true)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := testutils.UnmountNS(a); err != nil {
		t.Fatal(err)
	}
	alive(t, hostport.Sandbox{Inode: s.Inode}, false)
}

// A sandbox that no mount holds lives as long as its processes: the runtime
// may have named it by /proc/PID/ns/net.
func TestAliveByProcess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	sleeper := exec.Command("sleep", "60")
	sleeper.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleeper.Process.Kill() })
	s := identify(t, fmt.Sprintf("/proc/%d/ns/net", sleeper.Process.Pid))
	alive(t, s, true)
	alive(t, hostport.Sandbox{Inode: s.Inode}, true)
	if err := sleeper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = sleeper.Wait()
	alive(t, s, false)
	alive(t, hostport.Sandbox{Inode: s.Inode}, false)
}

func TestAliveCannotTell(t *testing.T) {
	if _, err := Alive(hostport.Sandbox{}); err == nil {
		t.Error("Alive of an unknown sandbox gave an answer")
	}
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	if got, err := Alive(hostport.Sandbox{Path: loop, Device: 1, Inode: 1}); err == nil {
		t.Errorf("Alive behind a symbolic link to itself = %v, want an error (ELOOP)", got)
	}
	unprivileged(t, func() {
		closed := "/root/netns"
		if err := unix.Stat(closed, new(unix.Stat_t)); err != unix.EACCES {
			t.Errorf("stat %s: %v; the test needs EACCES", closed, err)
		}
		if got, err := Alive(hostport.Sandbox{Path: closed, Device: 1, Inode: 1}); err == nil {
			t.Errorf("Alive behind a closed directory = %v, want an error (EACCES)", got)
		}
		// Inode 1 is no namespace, but the processes of others are unreadable.
		if got, err := Alive(hostport.Sandbox{Inode: 1}); err == nil {
			t.Errorf("Alive without the right to look = %v, want an error", got)
		}
	})
}

// unprivileged runs f on a thread of user nobody, which ends with it.
func unprivileged(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			done <- errno
			return
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatalf("become nobody: %v", err)
	}
}

func TestMounted(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       bool
	}{
		{"mounted", "523 28 0:4 net:[4026532500] /run/netns/a rw shared:1 - nsfs nsfs rw\n", true},
		{"two tags", "523 28 0:4 net:[4026532500] /run/netns/a rw shared:1 master:2 - nsfs nsfs rw\n", true},
		{"no tag, last line unended", "1 2 0:4 net:[4026532500] /n rw - nsfs nsfs rw", true},
		{"another inode", "523 28 0:4 net:[40265325001] /run/netns/a rw - nsfs nsfs rw\n", false},
		{"another kind", "523 28 0:4 mnt:[4026532500] /run/netns/a rw - nsfs nsfs rw\n", false},
		{"a directory of that name", "523 28 0:4 net:[4026532500] /mnt rw - ext4 /dev/sda rw\n", false},
		{"a mount point of that name", "523 28 8:1 / /mnt/net:[4026532500] rw - nsfs nsfs rw\n", false},
		{"cut short", "523 28 0:4 net:[4026532500] /run/netns/a rw shared:1 -", false},
		{"empty", "", false},
	} {
		if got := mounted([]byte(tc.line), 4026532500); got != tc.want {
			t.Errorf("%s: mounted = %v, want %v", tc.name, got, tc.want)
		}
	}
}

func FuzzMounted(f *testing.F) {
	f.Fuzz(func(t *testing.T, mountinfo []byte, inode uint64) {
		found := mounted(mountinfo, inode)
		if found && !bytes.Contains(mountinfo, fmt.Appendf(nil, "net:[%d]", inode)) {
			t.Errorf("namespace %d found in a text without it", inode)
		}
		if strings.ContainsAny(string(mountinfo), "\x00") {
			return
		}
		line := fmt.Sprintf("1 1 0:4 net:[%d] /n rw - nsfs nsfs rw", inode)
		if !mounted(append(append(bytes.TrimRight(mountinfo, "\n"), '\n'), line...), inode) {
			t.Errorf("namespace %d not found after other mounts", inode)
		}
	})
}
