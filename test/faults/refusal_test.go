package faults

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/fault"
	"github.com/hostport-cni/hostport/test/world"
)

// refused sends an ADD that has to fail with an error that holds these words.
func (m *machine) refused(p *pod, words ...string) {
	m.t.Helper()
	o := m.try(m.request("ADD", p))
	e, err := o.Error()
	if err != nil || e == nil {
		m.t.Fatalf("ADD: exit %d, %v, %s: want a refusal", o.ExitCode, err, o.Stdout)
	}
	for _, w := range words {
		if !strings.Contains(e.Msg+" "+e.Details, w) {
			m.t.Errorf("error %q %q does not say %q", e.Msg, e.Details, w)
		}
	}
}

// tools are those of both families that program.
var tools = []string{"iptables-restore", "ip6tables-restore"}

// A tool that fails, in either family, fails the ADD and leaves rules and
// records as they were.
func TestToolRefuses(t *testing.T) {
	for _, tc := range []struct{ name, script, words string }{
		{"fails", "/bin/cat >/dev/null; echo 'no buffer space' >&2; exit 4", "no buffer space"},
		{"is killed", "kill -9 $$", "killed"},
		{"fails after half of its input", "/usr/bin/head -c 20 >/dev/null; exit 1", "exit status 1"},
		{"fails with escape sequences", "printf '\\033[31mno\\033[0m\\n\\007' >&2; exit 1", "no"},
		{"writes much", "/usr/bin/yes no | /usr/bin/head -c 300000 >&2; exit 1", "no; no; no"},
	} {
		for _, tool := range tools {
			t.Run(tool+" "+tc.name, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, world.IptablesNFT)
				m.config["backend"] = "iptables"
				first := m.newPod(1, 8080)
				m.must(m.request("ADD", first))
				before := m.canonical()

				m.ReplaceTool(tool, tc.script)
				second := m.newPod(2, 8081)
				m.refused(second, tool, tc.words)
				m.sameRules("a failed ADD", before)
				if o := m.try(m.request("DEL", first)); o.ExitCode == 0 {
					t.Errorf("DEL succeeds though %s %s", tool, tc.name)
				}
				m.RestoreTools()

				m.agreeAfter("the tool works again", second)
				m.must(m.request("DEL", second))
				m.must(m.request("DEL", first))
				m.agree("everything is deleted")
				if left := m.programmed(); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			})
		}
	}
}

// A tool that does its work and then reports failure, or is killed: what the
// kernel holds is not known, and the next invocation has to find out.
func TestToolAppliesAndFails(t *testing.T) {
	for name, script := range map[string]string{"fails": `"$REAL" "$@"; exit 1`, "is killed": `"$REAL" "$@"; kill -9 $$`} {
		for _, tool := range tools {
			t.Run(tool+" works and "+name, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, world.IptablesNFT)
				m.config["backend"] = "iptables"
				first := m.newPod(1, 8080)
				m.must(m.request("ADD", first))
				for _, verb := range []string{"ADD", "DEL"} {
					m.ReplaceTool(tool, script)
					second := m.newPod(2, 8081, 8443)
					if verb == "DEL" {
						m.RestoreTools()
						m.must(m.request("ADD", second))
						m.ReplaceTool(tool, script)
					}
					if o := m.try(m.request(verb, second)); o.ExitCode == 0 {
						t.Logf("%s succeeds", verb)
					}
					m.RestoreTools()
					m.agreeAfter(verb+" failed, then ADD of another", m.newPod(3, 8082))
					m.must(m.collect(first))
					m.agree(verb + " failed, then GC")
				}
			})
		}
	}
}

// agreeAfter adds a pod, which has to succeed, and compares records and kernel.
func (m *machine) agreeAfter(when string, p *pod) {
	m.t.Helper()
	m.must(m.request("ADD", p))
	m.agree(when)
	m.unchangedBySync(when)
}

func (m *machine) sameRules(when string, before []string) {
	m.t.Helper()
	if after := m.canonical(); strings.Join(before, "\n") != strings.Join(after, "\n") {
		m.t.Errorf("%s changed the rules from\n%s\nto\n%s", when, strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// Tools that are not there: the backend iptables says so, and with no backend
// configured nftables serves.
func TestToolIsMissing(t *testing.T) {
	t.Parallel()
	m := newMachine(t, world.IptablesNFT)
	m.config["backend"] = "iptables"
	for _, tool := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		m.RemoveTool(tool)
	}
	p := m.newPod(1, 8080)
	m.refused(p, "iptables", "not installed")
	if left, _ := m.recorded(); len(left) > 0 {
		t.Errorf("recorded nevertheless: %v", left)
	}
	m.config = world.Config{"backend": nil}
	m.must(m.request("ADD", p))
	for f := range m.programmed() {
		if !strings.HasPrefix(string(f), "nftables ") {
			t.Errorf("forward %s", f)
		}
	}
	m.agree("nftables serves")
	m.must(m.request("DEL", p))
}

// A change of iptables that was interrupted, and then the tools are gone: that is
// no trouble of nftables' pods.
func TestToolIsMissingAfterInterruption(t *testing.T) {
	t.Parallel()
	m := newMachine(t, world.IptablesNFT)
	m.config["backend"] = "iptables"
	m.must(m.request("ADD", m.newPod(1, 8080)))
	interrupted := m.newPod(2, 8081)
	if o := m.try(m.request("ADD", interrupted), "HOSTPORT_FAULT="+fault.AfterRecord); !o.killed {
		t.Fatalf("exit %d, %s", o.ExitCode, o.Stdout)
	}
	for _, tool := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		m.RemoveTool(tool)
	}
	m.refused(m.newPod(3, 8082), "not installed")

	m.config["backend"] = "nftables"
	p := m.newPod(4, 8083)
	m.must(m.request("ADD", p))
	if got := m.holders(8083); !slices.Equal(got, []string{p.id}) {
		t.Errorf("8083/tcp leads to %v", got)
	}
	m.refused(m.newPod(5, 8080), "8080") // held by a pod of iptables'
	out, err := m.control("list")
	for _, port := range []string{"8080/tcp", "8081/tcp", "8083/tcp"} {
		if err != nil || !strings.Contains(out, port) {
			t.Errorf("list does not have %s (%v):\n%s", port, err, out)
		}
	}
	if out, err := m.control("status", "--backend", "nftables"); err != nil {
		t.Errorf("STATUS of nftables: %v, %s", err, out)
	}
	if out, err := m.control("status", "--backend", "iptables"); err == nil || !strings.Contains(out, "not installed") {
		t.Errorf("STATUS of iptables: %v, %s", err, out)
	}
	m.must(m.request("DEL", p))
	if got := m.holders(8083); len(got) > 0 {
		t.Errorf("8083/tcp leads to %v after DEL", got)
	}

	m.RestoreTools()
	m.config["backend"] = "iptables"
	m.must(m.request("ADD", interrupted))
	m.agree("the tools are back")
}

// A tool that hangs is ended, and so is what it has started.
func TestToolHangs(t *testing.T) {
	t.Parallel()
	m := newMachine(t, world.IptablesNFT)
	m.config["backend"] = "iptables"
	m.config["lockTimeout"] = "1s"
	pidFile := filepath.Join(m.dir, "pid")
	m.ReplaceTool("iptables-restore", "/bin/sleep 600 & echo $! >"+pidFile+"; wait")
	start := time.Now()
	p := m.newPod(1, 8080)
	m.refused(p, "iptables-restore", "killed")
	if took := time.Since(start); took > 50*time.Second {
		t.Errorf("a tool that hangs held the ADD for %v", took)
	}
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	if !gone(strings.TrimSpace(string(pid))) {
		t.Errorf("what the tool had started is still there")
	}
	m.RestoreTools()
	m.config["lockTimeout"] = "20s"
	m.agreeAfter("the tool answers again", p)
	m.must(m.request("DEL", p))
}

// A tool ends with the plugin that started it: it must not commit when the next
// invocation has the node.
func TestToolDiesWithPlugin(t *testing.T) {
	t.Parallel()
	m := newMachine(t, world.IptablesNFT)
	m.config["backend"] = "iptables"
	pidFile := filepath.Join(m.dir, "pid")
	m.ReplaceTool("iptables-restore", "echo $$ >"+pidFile+"; exec /bin/sleep 600")
	p := m.newPod(1, 8080)
	add, err := m.start(m.request("ADD", p))
	if err != nil {
		t.Fatal(err)
	}
	var pid []byte
	for deadline := time.Now().Add(time.Minute); len(pid) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the plugin starts no tool")
		}
		pid, _ = os.ReadFile(pidFile)
	}
	if err := add.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	add.wait()
	if !gone(strings.TrimSpace(string(pid))) {
		t.Error("the tool is still there")
	}
	m.RestoreTools()
	m.must(m.request("DEL", p))
}

// gone waits for a process to end.
func gone(pid string) bool {
	for range 100 {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return true
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

// Without CAP_NET_ADMIN the kernel says EPERM: the ADD fails, and nothing is
// recorded.
func TestNotPermitted(t *testing.T) {
	everyBackend(t, func(t *testing.T, b world.Backend) {
		m := newMachine(t, b)
		m.config["backend"] = b.Config()
		first := m.newPod(1, 8080)
		m.must(m.request("ADD", first))
		before := m.canonical()
		whole := m.plugin
		m.plugin = filepath.Join(m.dir, "without-net-admin")
		script := "#!/bin/sh\nexec /usr/bin/setpriv --bounding-set -net_admin --inh-caps -net_admin " + whole + "\n"
		if err := os.WriteFile(m.plugin, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		second := m.newPod(2, 8081)
		m.refused(second, "ermi") // "Permission denied", "operation not permitted"
		m.plugin = whole
		m.sameRules("an ADD without permission", before)
		m.agreeAfter("with permission", second)
	})
}

// A state directory that cannot be written: the ADD says which and why, and
// changes no rule; DEL of what was never added is no error.
func TestStateDirectory(t *testing.T) {
	everyBackend(t, func(t *testing.T, b world.Backend) {
		for _, tc := range []struct{ name, options, words string }{
			{"full", "size=16k", "no space left"},
			{"full of files", "nr_inodes=2", "no space left"},
			{"read-only", "ro", "read-only file system"},
		} {
			t.Run(tc.name, func(t *testing.T) {
				m := newMachine(t, b)
				m.config["backend"] = b.Config()
				before := m.canonical()
				if err := os.Mkdir(m.DataDir, 0o700); err != nil {
					t.Fatal(err)
				}
				flags, options := uintptr(0), tc.options+",mode=0700"
				if tc.options == "ro" {
					flags, options = unix.MS_RDONLY, "mode=0700"
				}
				if err := unix.Mount("tiny", m.DataDir, "tmpfs", flags, options); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = unix.Unmount(m.DataDir, unix.MNT_DETACH) })
				if tc.name == "full" { // to the last page
					fill := make([]byte, 8<<10)
					if err := os.WriteFile(filepath.Join(m.DataDir, "fill"), fill, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				p := m.newPod(1, 8080)
				for range 3 {
					m.refused(p, tc.words, m.DataDir)
				}
				m.sameRules("an ADD without state", before)
				if entries, err := os.ReadDir(m.DataDir); err != nil || len(entries) > 3 { // the lock, and counts
					t.Errorf("files that pile up: %v, %v", entries, err)
				}
				m.must(m.request("DEL", p))
			})
		}
	})
}

// The disk fills up while pods run: theirs stay, and the next ADD is refused
// without a trace.
func TestDiskFillsUp(t *testing.T) {
	everyBackend(t, func(t *testing.T, b world.Backend) {
		m := newMachine(t, b)
		m.config["backend"] = b.Config()
		if err := os.Mkdir(m.DataDir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tiny", m.DataDir, "tmpfs", 0, "size=128k,mode=0700"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(m.DataDir, unix.MNT_DETACH) })
		first := m.newPod(1, 8080)
		m.must(m.request("ADD", first))
		fill := filepath.Join(m.DataDir, "fill")
		_ = os.WriteFile(fill, make([]byte, 256<<10), 0o600) // as much as goes in
		var refused *pod
		for n := 2; n < 30 && refused == nil; n++ {
			p := m.newPod(n, 8080+n)
			if o := m.try(m.request("ADD", p)); o.ExitCode != 0 {
				refused = p
			}
		}
		if refused == nil {
			t.Fatal("a full disk takes any number of records")
		}
		if err := os.Remove(fill); err != nil {
			t.Fatal(err)
		}
		m.agreeAfter("there is room again", m.newPod(50, 8200))
		if got := m.holders(8080); len(got) != 1 || got[0] != first.id {
			t.Errorf("port 8080 leads to %v, want %s", got, first.id)
		}
		if got := m.holders(8080 + refused.n); len(got) > 0 {
			t.Errorf("the refused ADD's port leads to %v", got)
		}
	})
}

// Whoever waits for the lock longer than lockTimeout is told to try again.
func TestLockIsHeld(t *testing.T) {
	everyBackend(t, func(t *testing.T, b world.Backend) {
		m := newMachine(t, b)
		p := m.newPod(1, 8080)
		m.must(m.request("ADD", p))
		s := m.openState()
		defer func() { _ = s.Close() }()
		m.config["lockTimeout"] = "700ms"
		for _, i := range []world.Invocation{m.request("ADD", m.newPod(2, 8081)), m.request("DEL", p), m.request("CHECK", p), m.collect()} {
			start := time.Now()
			o := m.try(i)
			took := time.Since(start)
			if e, err := o.Error(); err != nil || e == nil || e.Code != 11 {
				t.Errorf("%s: %v, %v, want code 11", i.Command, e, err)
			}
			if took < 700*time.Millisecond || took > 20*time.Second {
				t.Errorf("%s waited %v for a lock with a timeout of 700ms", i.Command, took)
			}
		}
		m.config["lockTimeout"] = "20s"
		time.AfterFunc(300*time.Millisecond, func() { _ = s.Close() })
		m.must(m.request("DEL", p))
		m.agree("the lock was free again")
	})
}
