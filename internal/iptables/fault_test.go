package iptables

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// everything is an attachment that uses all there is, but for conditions.
func everything() *hostport.Attachment {
	return attachment("a", maps("8080:80", "53:53/udp", "192.0.2.1@8080:81"), addresses(strings.Fields(dual)...), localnet)
}

func TestFailedApplyLeavesTheKernelAsItWas(t *testing.T) {
	realTool := func(w *world, tool string) string {
		return "exec /usr/bin/nsenter --net=" + w.ns + " /usr/sbin/" + strings.Replace(tool, "-", "-"+w.variant+"-", 1) + ` "$@"`
	}
	for name, c := range map[string]struct {
		stub func(w *world)
		want string
	}{
		"both fail": {func(w *world) {
			w.stub("iptables-restore", "echo 'line 3 failed' >&2; exit 1")
			w.stub("ip6tables-restore", "exit 4")
		}, "program IPv4: iptables-restore: exit status 1: line 3 failed"},
		"IPv6 fails": {func(w *world) {
			w.stub("ip6tables-restore", "printf 'no\\033[31m\\nluck' >&2; exit 2")
		}, "program IPv6: ip6tables-restore: exit status 2: no [31m luck"},
		"IPv4 fails": {func(w *world) { w.stub("iptables-restore", "exit 1") }, "exit status 1"},
		"IPv6 is missing": {func(w *world) {
			if err := os.Remove(filepath.Join(w.bin, "ip6tables-restore")); err != nil {
				w.t.Fatal(err)
			}
		}, "ip6tables-restore not found on PATH"},
		"IPv6 hangs":     {func(w *world) { w.stub("ip6tables-restore", "/bin/sleep 1000 & wait") }, "no answer in"},
		"IPv6 is killed": {func(w *world) { w.stub("ip6tables-restore", "kill -9 $$") }, "signal: killed"},
		"hangs after it has applied": {func(w *world) {
			mark := filepath.Join(w.bin, "hung")
			w.stub("iptables-restore", "[ -e "+mark+" ] && "+realTool(w, "iptables-restore")+
				"\n: >"+mark+"\n"+strings.TrimPrefix(realTool(w, "iptables-restore"), "exec ")+"\nexec /bin/sleep 1000")
		}, "no answer in"},
		"nat fails after raw": {func(w *world) {
			// Until undone, which is the change that drops the guard.
			w.stub("iptables-restore", `text=$(/bin/cat)
case $text in
*:CNI-HP-GUARD*) echo "$text" | /bin/sed '/COMMIT/q' | `+strings.TrimPrefix(realTool(w, "iptables-restore"), "exec ")+`; exit 1;;
*) echo "$text" | `+strings.TrimPrefix(realTool(w, "iptables-restore"), "exec ")+`;;
esac`)
		}, "exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			eachVariant(t, func(t *testing.T, w *world) {
				w.b.wait, w.b.work, w.b.undoing = time.Second, 500*time.Millisecond, 5*time.Second
				w.run(kubeProxy, "iptables-restore", "--noflush")
				n := &node{b: w.b}
				other := attachment("b", maps("8081:80"), addresses("10.244.0.41/24", "fd00:10:244::29/64"))
				n.add(t, other)
				before := w.both()
				a := everything()
				c.stub(w)
				err := w.b.Apply(t.Context(), n.change(nil, []*hostport.Attachment{a}))
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Apply: %v, want %q", err, c.want)
				}
				for _, tool := range []string{"iptables-restore", "ip6tables-restore"} {
					w.unstub(tool)
				}
				if diff := cmp.Diff(sortLines(before), sortLines(w.both())); diff != "" {
					t.Errorf("after an ADD that failed with %v (-before +after):\n%s", err, diff)
				}
				n.add(t, a)
				if err := w.b.Check(t.Context(), n.atts); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestHungToolLeavesNoProcess: what the tool had started goes with it.
func TestHungToolLeavesNoProcess(t *testing.T) {
	w := newWorld(t, "nft")
	pid := filepath.Join(w.bin, "pid")
	w.stub("iptables-restore", "/bin/sleep 1000 & echo $! >"+pid+"; wait")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	w.b.undoing = 500 * time.Millisecond
	start := time.Now()
	err := w.b.Apply(ctx, hostport.Change{Add: []*hostport.Attachment{attachment("a", maps("1:1"))}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Apply: %v", err)
	}
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("Apply took %s", took)
	}
	child, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	// The orphan is reaped by someone else, sooner or later.
	for range 100 {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(child)) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("a process that the hung tool had started is left")
}

func TestMissingTools(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	b := New(0, nil)
	a := attachment("a", maps("1:1"))
	_, statusErr := b.Status(t.Context())
	_, recoverErr := b.Recover(t.Context())
	for verb, err := range map[string]error{
		"Available": Available(),
		"Apply":     b.Apply(t.Context(), hostport.Change{Add: []*hostport.Attachment{a}}),
		"Sync":      b.Sync(t.Context(), []*hostport.Attachment{a}),
		"Check":     b.Check(t.Context(), []*hostport.Attachment{a}),
		"Status":    statusErr,
	} {
		if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "not found on PATH") {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if recoverErr != nil {
		t.Errorf("Recover: %v", recoverErr)
	}
	if err := b.Sync(t.Context(), nil); err != nil {
		t.Errorf("Sync with nothing to do: %v", err)
	}
}

// TestIPv6ToolsAreNotNeededWithoutIPv6 covers nodes where only the IPv4 half
// is installed or works.
func TestIPv6ToolsAreNotNeededWithoutIPv6(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		for _, tool := range []string{"ip6tables-restore", "ip6tables-save"} {
			if err := os.Remove(filepath.Join(w.bin, tool)); err != nil {
				t.Fatal(err)
			}
		}
		a := attachment("a", maps("1:1"), localnet)
		n := &node{b: w.b}
		n.add(t, a)
		if err := w.b.Sync(t.Context(), n.atts); err != nil {
			t.Error(err)
		}
		if err := w.b.Check(t.Context(), n.atts); err != nil {
			t.Error(err)
		}
		if _, err := w.b.Status(t.Context()); err != nil {
			t.Error(err)
		}
		n.del(t, a)
	})
}

func TestXtablesLock(t *testing.T) {
	w := newWorld(t, "legacy") // the nf_tables variant has none
	w.b.wait = time.Second
	lock, err := os.Create(os.Getenv("XTABLES_LOCKFILE"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	fd := int(lock.Fd()) // not asked for in a timer, beside Close
	if err := syscall.Flock(fd, syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	n := &node{b: w.b}
	a := attachment("a", maps("8080:80"))
	start := time.Now()
	err = w.b.Apply(t.Context(), n.change(nil, []*hostport.Attachment{a}))
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "waited 1s") {
		t.Errorf("Apply: %v", err)
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("Apply waited %s: once is enough", took)
	}
	w.b.wait = 20 * time.Second
	unlock := time.AfterFunc(time.Second, func() { _ = syscall.Flock(fd, syscall.LOCK_UN) })
	defer unlock.Stop()
	n.add(t, a)
}
