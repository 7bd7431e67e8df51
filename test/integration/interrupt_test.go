//go:build explain

package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/test/world"
)

// TestProbeInterrupted ends a probe while its packet waits for an answer, and wants
// neither its interfaces nor its network namespace to be left, and no answer made of
// half of what it would have seen.
func TestProbeInterrupted(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, world.Options{Backend: world.NFTables}, world.V4)
			e.web()
			e.w.Iptables(e.f, "-P", "FORWARD", "DROP")
			before := e.neighbours()
			var out bytes.Buffer
			cmd := exec.Command(filepath.Join(e.w.PluginDir, "hostportctl"), "--data-dir", e.w.DataDir,
				"explain", "8080", "--probe", "--from", e.f.Client().String(), "--address", e.f.Node().String())
			cmd.Env = []string{"PATH=" + e.w.ToolDir}
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := e.w.Node.Try(cmd.Start); err != nil {
				t.Fatal(err)
			}
			link := fmt.Sprintf("hpprobe%d", cmd.Process.Pid%1000000)
			e.eventually("the probe has its interface", func() bool { return e.w.Node.HasLink(link) })
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if signal != syscall.SIGKILL {
				if code := cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(out.String(), "interrupted") || strings.Contains(out.String(), "8080/tcp") {
					t.Errorf("exit status %d, want 2 and no verdict:\n%s", code, &out)
				}
				if e.w.Node.HasLink(link) {
					t.Errorf("%s was left by a probe that could remove it", link)
				}
			}
			e.eventually("the interface is gone", func() bool { return !e.w.Node.HasLink(link) })
			e.eventually("the namespace is gone", func() bool { return e.neighbours() == before })
		})
	}
}

// neighbours are the namespaces that the node's interfaces lead to.
func (e *env) neighbours() string {
	e.Helper()
	return e.w.Node.Command("ip", "netns", "list-id")
}

func (e *env) eventually(what string, done func() bool) {
	e.Helper()
	const patience = time.Minute // the kernel takes namespaces apart one after the other
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.Fatalf("not in %s: %s", patience, what)
		}
	}
}

// TestTraceInterrupted wants no table of a trace that is interrupted, and no wait
// for the rest of its time.
func TestTraceInterrupted(t *testing.T) {
	e := newEnv(t, world.Options{Backend: world.NFTables}, world.V4)
	cmd := exec.Command(filepath.Join(e.w.PluginDir, "hostportctl"), "--data-dir", e.w.DataDir, "trace", "8080", "--timeout", "10m")
	cmd.Env, cmd.Stderr = []string{"PATH=" + e.w.ToolDir}, os.Stderr
	if err := e.w.Node.Try(cmd.Start); err != nil {
		t.Fatal(err)
	}
	e.eventually("the trace has its table", func() bool { return strings.Contains(e.w.ListNFT(), "hostport-trace") })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 2 {
		t.Errorf("exit status %d, want 2", code)
	}
	e.noTrace()
}
