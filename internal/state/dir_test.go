package state_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
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

// TestDirectoryOfOthers: "dataDir": "/run" must not close /run to all but root.
func TestDirectoryOfOthers(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, "lock"), 0o755), os.Mkdir(filepath.Join(dir, "udev"), 0o755)); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "holds files of others")
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("it was left with %v, %v", fi.Mode(), err)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, "lock")), os.Remove(filepath.Join(dir, "udev"))); err != nil {
		t.Fatal(err)
	}
	_ = open(t, options(dir)).Close() // as kubelet makes it for a volume
	for _, name := range []string{"lock", "counts", "refusals", "state.db.damaged-1", "agent.sock", "lost+found"} {
		dir := t.TempDir() // which is open to others
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := state.Usable(dir); err != nil {
			t.Errorf("a directory with %s alone: %v", name, err)
		}
		_ = open(t, options(dir)).Close()
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
	if err := state.Usable(dir); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("it is usable: %v, want %q", err, why)
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
				if err := os.Chmod(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := make(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				refused(t, dir, name)
				if name == "state.db" && !state.Mentions(dir, "c1") {
					t.Error("it cannot be read, and mentions nobody")
				}
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

// TestMentions finds a container ID wherever it is in the file.
func TestMentions(t *testing.T) {
	dir := t.TempDir()
	const id = "0123456789abcdef"
	if state.Mentions(dir, id) {
		t.Error("a file that is not there mentions a container")
	}
	if err := os.WriteFile(filepath.Join(dir, "state.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if state.Mentions(dir, id) {
		t.Error("an empty file mentions a container")
	}
	offsets := []int{0, 1, 300_000}
	for border := 16 << 10; border < 70<<10; border += 16<<10 - len(id) { // of two reads
		for n := range 2 * len(id) {
			offsets = append(offsets, border-n+5)
		}
	}
	for _, before := range offsets {
		text := strings.Repeat("x", before) + id + strings.Repeat("y", 100_000)
		if err := os.WriteFile(filepath.Join(dir, "state.db"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if !state.Mentions(dir, id) {
			t.Errorf("the ID after %d bytes is not found", before)
		}
		if state.Mentions(dir, "0123456789abcdee") {
			t.Error("another ID is found")
		}
	}
}

// TestMentionsCut: a file that somebody cuts while it is read, as cp does, may have
// mentioned any container.
func TestMentionsCut(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	for range 50 { // the file may be cut before or after it is read
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<30)); err != nil {
			t.Fatal(err)
		}
		found := make(chan bool)
		go func() { found <- state.Mentions(dir, "c1") }()
		time.Sleep(5 * time.Millisecond)
		if err := os.Truncate(path, 1<<20); err != nil {
			t.Fatal(err)
		}
		if <-found {
			return
		}
	}
	t.Error("a file that is cut while it is read is taken as read")
}

// TestMentionsPending: of a DEL that was killed, the record is gone and overwritten. That
// its change is pending still tells of the container.
func TestMentionsPending(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	fill(t, s, 3)
	gone := rec(1, 8001, 20001)
	update(t, s, func(tx *state.Tx) error {
		return errors.Join(tx.Delete(gone), tx.SetPending(&state.Pending{Changed: []*hostport.Attachment{gone}}))
	})
	for n := range 50 {
		update(t, s, func(tx *state.Tx) error {
			return errors.Join(tx.Put(rec(10+n, uint16(9000+n))), tx.SetText(state.KeySeen+"iptables", "x"))
		})
	}
	if !state.Mentions(o.Dir, gone.ContainerID) {
		t.Error("the container is not found")
	}
}
