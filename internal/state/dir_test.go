package state_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/state"
)

func TestPermissions(t *testing.T) {
	old := syscall.Umask(0)
	t.Cleanup(func() { syscall.Umask(old) })
	dir := filepath.Join(t.TempDir(), "state")
	modes := func() string {
		var out []string
		for _, name := range []string{"", "state.db", "lock"} {
			fi, err := os.Lstat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, fi.Mode().Perm().String())
		}
		return strings.Join(out, " ")
	}
	const want = "-rwx------ -rw------- -rw-------"
	_ = open(t, options(dir)).Close()
	if got := modes(); got != want {
		t.Errorf("made with %s, want %s", got, want)
	}
	for _, name := range []string{"", "state.db", "lock"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	_ = open(t, options(dir)).Close()
	if got := modes(); got != want {
		t.Errorf("left at %s, want %s", got, want)
	}
}

// refused fails unless the state cannot be opened, and says what is wrong.
func refused(t *testing.T, dir, why string) {
	t.Helper()
	s, err := state.Open(context.Background(), options(dir))
	if err == nil {
		_ = s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), why) || errors.Is(err, state.ErrDamaged) || errors.Is(err, state.ErrLocked) {
		t.Errorf("error %v, want a refusal with %q", err, why)
	}
}

func TestSymbolicLinksAreRefused(t *testing.T) {
	for _, name := range []string{"state.db", "lock"} {
		for _, target := range []string{"victim", "nowhere"} {
			t.Run(name+" to "+target, func(t *testing.T) {
				dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
				if err := os.Chmod(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(victim, []byte("precious"), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(filepath.Join(filepath.Dir(victim), target), filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				refused(t, dir, "symbolic link")
				if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
					t.Errorf("what the link led to holds %q, %v", b, err)
				}
				if fi, err := os.Stat(victim); err != nil || fi.Mode().Perm() != 0o644 {
					t.Errorf("what the link led to has %v, %v", fi.Mode(), err)
				}
			})
		}
	}
	t.Run("directory", func(t *testing.T) {
		target, link := t.TempDir(), filepath.Join(t.TempDir(), "state")
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		refused(t, link, "symbolic link")
		if entries, err := os.ReadDir(target); len(entries) > 0 || err != nil {
			t.Errorf("the link was followed: %v, %v", entries, err)
		}
	})
}

func TestOddFilesAreRefused(t *testing.T) {
	for _, name := range []string{"state.db", "lock"} {
		for kind, make := range map[string]func(string) error{
			"directory": func(p string) error { return os.Mkdir(p, 0o700) },
			"FIFO":      func(p string) error { return unix.Mkfifo(p, 0o600) },
			"device":    func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) },
		} {
			t.Run(name+" is a "+kind, func(t *testing.T) {
				dir := t.TempDir()
				if err := make(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				refused(t, dir, name)
			})
		}
	}
	t.Run("directory is a file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, path, "not a directory")
	})
	t.Run("relative path", func(t *testing.T) {
		t.Chdir(t.TempDir())
		refused(t, "state", "absolute")
		if _, err := os.Lstat("state"); err == nil {
			t.Error("it was made")
		}
	})
}

func TestForeignOwnerIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test gives files away: run it as root")
	}
	for _, name := range []string{"", "state.db", "lock"} {
		t.Run("/"+name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			_ = open(t, options(dir)).Close()
			if err := os.Chown(filepath.Join(dir, name), 1234, -1); err != nil {
				t.Fatal(err)
			}
			refused(t, dir, "belongs to user 1234")
		})
	}
}

func TestLockTimeout(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	o.Timeout = 300 * time.Millisecond
	start := time.Now()
	_, err := state.Open(context.Background(), o)
	if waited := time.Since(start); !errors.Is(err, state.ErrLocked) || waited < o.Timeout || waited > o.Timeout+5*time.Second {
		t.Errorf("after %v: %v, want ErrLocked after %v", waited, err, o.Timeout)
	}
	if !strings.Contains(fmt.Sprint(err), o.Dir) {
		t.Errorf("error %q does not name the lock", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	o.Timeout = time.Minute
	if _, err = state.Open(ctx, o); !errors.Is(err, state.ErrLocked) {
		t.Errorf("cancelled: %v", err)
	}
	// Those that gave up must not take the lock from those that wait.
	_ = s.Close()
	o.Timeout = 10 * time.Second
	_ = open(t, o).Close()
}

// Blocked openers get the state one after another, and at once when it is free.
func TestLockIsHandedOn(t *testing.T) {
	o := options(t.TempDir())
	o.Timeout = 30 * time.Second
	s := open(t, o)
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			s, err := state.Open(context.Background(), o)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Update(func(tx *state.Tx) error { return tx.Put(rec(i, uint16(1000+i))) }); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if got := keys(t, open(t, o)); len(got) != n {
		t.Errorf("%d records, want %d: %v", len(got), n, got)
	}
}

// holdVariable makes this test binary a second process that holds the state.
const holdVariable = "HOSTPORT_TEST_HOLD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdVariable); dir != "" {
		os.Exit(hold(dir))
	}
	os.Exit(m.Run())
}

func hold(dir string) int {
	s, err := state.Open(context.Background(), options(dir))
	if err == nil {
		err = s.Update(func(tx *state.Tx) error { return tx.Put(rec(42, 4242)) })
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("held")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the parent ends
	_ = s.Close()
	return 0
}

// A process that is killed gives the lock back, and its commits stay.
func TestTwoProcesses(t *testing.T) {
	o := options(t.TempDir())
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdVariable+"="+o.Dir)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "held\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	short := o
	short.Timeout = 100 * time.Millisecond
	if _, err := state.Open(context.Background(), short); !errors.Is(err, state.ErrLocked) {
		t.Errorf("beside another process: %v, want ErrLocked", err)
	}
	time.AfterFunc(200*time.Millisecond, func() { _ = cmd.Process.Kill() })
	o.Timeout = 20 * time.Second
	s := open(t, o)
	_ = cmd.Wait()
	if got := keys(t, s); len(got) != 1 || got[0] != "c042/eth0" {
		t.Errorf("records %v", got)
	}
}
