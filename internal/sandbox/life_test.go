package sandbox

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/netns"
)

// life is what Look tells of a sandbox.
type life string

const (
	alive   life = "alive"
	dead    life = "dead"
	unknown life = "unknown"
)

func lifeOf(gone bool, err error) life {
	switch {
	case err != nil && !gone:
		return unknown
	case gone && err == nil:
		return dead
	case gone:
		return "gone, and nothing is known"
	default:
		return alive
	}
}

// look fails unless Look finds want.
func look(t *testing.T, s hostport.Sandbox, want life) {
	t.Helper()
	_, dead, err := Look(s)
	if got := lifeOf(dead, err); got != want {
		t.Errorf("Look(%+v) = %v, %v; want %v", s, got, err, want)
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

// start runs a program until the test ends. It waits for the first line of its
// output.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // closed by Wait, which ends a shell that reads it
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%s: %q, %v", cmd, line, err)
	}
}

func TestLookAtPath(t *testing.T) {
	a, b := netns.New(t), netns.New(t)
	s := identify(t, a.Path())
	look(t, s, alive)
	look(t, hostport.Sandbox{Path: s.Path, Inode: s.Inode}, alive)
	look(t, hostport.Sandbox{Path: s.Path, Device: s.Device + 1, Inode: s.Inode}, dead)
	look(t, hostport.Sandbox{Path: b.Path(), Device: s.Device, Inode: s.Inode}, dead)
	look(t, hostport.Sandbox{Path: s.Path + "-gone", Device: s.Device, Inode: s.Inode}, dead)
	look(t, hostport.Sandbox{Path: "/proc/self/status/ns", Device: s.Device, Inode: s.Inode}, alive)
	look(t, hostport.Sandbox{Inode: s.Inode}, alive)
	netns.Remove(t, a)
	look(t, s, dead)
	look(t, hostport.Sandbox{Inode: s.Inode}, dead)
}

// A namespace with the inode number of an old one, under a name of its own, does
// not keep the old one's ports from being taken over: also with processes in it.
func TestLookAtReusedInode(t *testing.T) {
	n := netns.New(t)
	old := identify(t, n.Path())
	old.Path = filepath.Join(filepath.Dir(old.Path), "cni-of-an-earlier-pod")
	look(t, old, dead)
	occupy(t, n)
	look(t, old, dead)
}

// occupy starts a process in a namespace.
func occupy(t *testing.T, n ns.NetNS) {
	t.Helper()
	err := n.Do(func(ns.NetNS) error {
		start(t, exec.Command("sh", "-c", "echo; exec sleep 600"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A sandbox whose mount is gone lives as long as its processes: a runtime that
// was killed while it ended the pod leaves it like that.
func TestLookUnmountedWithProcesses(t *testing.T) {
	n := netns.New(t)
	s := identify(t, n.Path())
	occupy(t, n)
	netns.Remove(t, n)
	look(t, s, alive)
	look(t, hostport.Sandbox{Inode: s.Inode}, alive)
	find(t, s.Inode, "", alive)
}

// A runtime with a mount namespace of its own: others see the empty file beneath
// the mount.
func TestLookMountedElsewhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cni-1")
	shell := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`touch "$0" && unshare --net="$0" true && echo && read -r end`, path)
	start(t, shell)
	s := identify(t, fmt.Sprintf("/proc/%d/root%s", shell.Process.Pid, path))
	s.Path = path
	if _, err := Identify(path); err == nil {
		t.Fatal("the mount is visible here: the test shows nothing")
	}
	look(t, s, alive)
	look(t, hostport.Sandbox{Path: "/run/netns/cni-1", Inode: s.Inode}, alive)
	look(t, hostport.Sandbox{Inode: s.Inode}, alive)
	find(t, s.Inode, "", alive)
	_ = shell.Process.Kill()
	_ = shell.Wait()
	look(t, s, dead)
	find(t, s.Inode, "", dead)
}

// The runtime may have named the sandbox by a process.
func TestLookAtProcess(t *testing.T) {
	sleeper := exec.Command("sleep", "600")
	sleeper.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	s := identify(t, fmt.Sprintf("/proc/%d/ns/net", sleeper.Process.Pid))
	look(t, s, alive)
	_ = sleeper.Process.Kill()
	_ = sleeper.Wait()
	look(t, s, dead)
}

// find fails unless Look finds that of a sandbox of which only the inode is known.
func find(t *testing.T, inode uint64, path string, want life) {
	t.Helper()
	gotPath, dead, err := Look(hostport.Sandbox{Inode: inode})
	if got := lifeOf(dead, err); gotPath != path || got != want {
		t.Errorf("Look at inode %d = %q, %v, %v; want %q, %v", inode, gotPath, got, err, path, want)
	}
}

func TestLookByInode(t *testing.T) {
	n := netns.New(t)
	s := identify(t, n.Path())
	path, err := filepath.EvalSymlinks(n.Path()) // /var/run is a link
	if err != nil {
		t.Fatal(err)
	}
	find(t, s.Inode, path, alive)
	find(t, 0, "", unknown)
	netns.Remove(t, n)
	find(t, s.Inode, "", dead)
}

func TestLookCannotTell(t *testing.T) {
	look(t, hostport.Sandbox{}, unknown)
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	look(t, hostport.Sandbox{Path: loop, Inode: 1}, unknown) // ELOOP
	unprivileged(t, func() {
		closed := "/root/netns"
		if err := unix.Stat(closed, new(unix.Stat_t)); err != unix.EACCES {
			t.Errorf("stat %s: %v; the test needs EACCES", closed, err)
		}
		look(t, hostport.Sandbox{Path: closed, Inode: 1}, unknown)
		// Inode 1 is no namespace, but the processes of others are unreadable.
		look(t, hostport.Sandbox{Inode: 1}, unknown)
		find(t, 1, "", unknown)
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

func TestMountPoints(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       []string
	}{
		{"mounted", "523 28 0:4 net:[4026532500] /run/netns/a rw shared:1 - nsfs nsfs rw\n", []string{"/run/netns/a"}},
		{"two tags", "523 28 0:4 net:[4026532500] /run/netns/a rw shared:1 master:2 - nsfs nsfs rw\n", []string{"/run/netns/a"}},
		{"no tag, last line unended", "1 2 0:4 net:[4026532500] /n rw - nsfs nsfs rw", []string{"/n"}},
		{"a space in the name", `1 2 0:4 net:[4026532500] /a\040b rw - nsfs nsfs rw`, []string{"/a b"}},
		{"another inode", "523 28 0:4 net:[40265325001] /run/netns/a rw - nsfs nsfs rw\n", nil},
		{"another kind", "523 28 0:4 mnt:[4026532500] /run/netns/a rw - nsfs nsfs rw\n", nil},
		{"a directory of that name", "523 28 0:4 net:[4026532500] /mnt rw - ext4 /dev/sda rw\n", nil},
		{"a mount point of that name", "523 28 8:1 / /mnt/net:[4026532500] rw - nsfs nsfs rw\n", nil},
		{"cut short", "523 28 0:4 net:[4026532500] /run/netns/a rw shared:1 -", nil},
		{"empty", "", nil},
	} {
		if got := mountPoints([]byte(tc.line), 4026532500); !slices.Equal(got, tc.want) {
			t.Errorf("%s: mount points %q, want %q", tc.name, got, tc.want)
		}
	}
}

func FuzzMounted(f *testing.F) {
	f.Fuzz(func(t *testing.T, mountinfo []byte, inode uint64) {
		found := len(mountPoints(mountinfo, inode)) > 0
		if found && !bytes.Contains(mountinfo, fmt.Appendf(nil, "net:[%d]", inode)) {
			t.Errorf("namespace %d found in a text without it", inode)
		}
		if strings.ContainsAny(string(mountinfo), "\x00") {
			return
		}
		line := fmt.Sprintf("1 1 0:4 net:[%d] /n rw - nsfs nsfs rw", inode)
		if len(mountPoints(append(append(bytes.TrimRight(mountinfo, "\n"), '\n'), line...), inode)) == 0 {
			t.Errorf("namespace %d not found after other mounts", inode)
		}
	})
}

// BenchmarkLookDead is what each owner costs whose path is gone.
func BenchmarkLookDead(b *testing.B) {
	own, err := stat(ownNamespace)
	if err != nil {
		b.Fatal(err)
	}
	gone := hostport.Sandbox{Path: "/run/netns/cni-gone", Device: own.Device, Inode: 1}
	for b.Loop() {
		if _, dead, err := Look(gone); !dead {
			b.Fatal(err)
		}
	}
}
