package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/fault"
	"github.com/hostport-cni/hostport/internal/install"
	"github.com/hostport-cni/hostport/test/world"
)

// TestTerm ends the agent: at once, and nothing changes on the node.
func TestTerm(t *testing.T) {
	t.Parallel()
	n, _ := newNode(t, world.IptablesNFT, "portmap")
	n.start("--replace-portmap")
	n.awaitReady()
	n.web(n.network(), "web", 8080)
	rules, conflist := n.rules(), n.conflist()
	took, err := n.stop(syscall.SIGTERM)
	if err != nil || took > 3*time.Second { // the machine may be busy
		t.Errorf("ended after %v with %v", took, err)
	}
	if diff := cmp.Diff(rules, n.rules()); diff != "" {
		t.Errorf("rules (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(conflist, n.conflist()); diff != "" {
		t.Errorf("conflist (-before +after):\n%s", diff)
	}
	n.reaches(8080, "web")
	n.web(n.network(), "later", 8081) // the plugin does not need the agent
}

// TestCleanup ends the agent for good, while a pod holds a port: the conflist is
// as before, and portmap serves the pod. Nothing of ours is left.
func TestCleanup(t *testing.T) {
	t.Parallel()
	n, net := newNode(t, world.NFTables, "portmap")
	n.web(net, "old", 8081).MustDel(t) // portmap leaves its table
	clean := n.rules()
	n.start("--replace-portmap", "--cleanup", "--cleanup-timeout", "1m")
	n.awaitReady()
	pod := n.web(n.network(), "web", 8080)
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	n.await(answerTime, "the conflist is as before", func() bool { return n.conflist() == string(net.Conflist) })
	n.reaches(8080, "web")
	select {
	case <-n.ended:
	case <-time.After(answerTime):
		t.Fatal("the agent does not end")
	}
	if n.err != nil {
		t.Error(n.err)
	}
	n.reaches(8080, "web")
	later := *pod // the runtime calls DEL of portmap
	later.Network = net
	later.MustDel(t)
	if diff := cmp.Diff(clean, n.rules()); diff != "" {
		t.Errorf("rules (-before +after):\n%s", diff)
	}
	for _, path := range []string{n.w.DataDir, filepath.Join(n.bin, "hostport"), filepath.Join(n.bin, "hostportctl")} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

// TestKilled kills the agent at each point of an installation, an adoption and a
// repair, while a client connects. The agent that is started next finishes what
// was begun.
func TestKilled(t *testing.T) {
	for _, tc := range []struct {
		name   string
		points []string
	}{
		{"install", install.Points()},
		{"adopt", fault.Points()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var killed atomic.Int32
			t.Cleanup(func() {
				if killed.Load() < 3 {
					t.Errorf("killed at %d points", killed.Load())
				}
			})
			for _, point := range tc.points {
				t.Run(point, func(t *testing.T) {
					t.Parallel()
					n, old := newNode(t, world.IptablesNFT, "portmap")
					n.web(old, "web", 8080)
					failed := n.w.Client.Watch(t, address(world.V4, 8080))
					n.startAs("hostport-agent-faulty", []string{"HOSTPORT_FAULT=" + point}, "--replace-portmap")
					if n.awaitDeath() {
						killed.Add(1)
					}
					n.start("--replace-portmap")
					n.awaitReady()
					if !n.hasEntry() {
						t.Errorf("conflist: %s", n.conflist())
					}
					if out := n.w.Ctl("check"); out.ExitCode != 0 {
						t.Errorf("hostportctl check: %s%s", out.Stdout, out.Stderr)
					}
					if text := n.w.Save(world.V4); strings.Contains(text, "CNI-DN-") {
						t.Errorf("rules of portmap are left:\n%s", text)
					}
					n.web(n.network(), "next", 8081)
					if errs := failed(); len(errs) > 0 {
						t.Errorf("%d connections failed: %v", len(errs), errs[0])
					}
				})
			}
		})
	}
	t.Run("heal", func(t *testing.T) {
		for _, point := range []string{fault.AfterAdopt, fault.AfterRewrite} {
			t.Run(point, func(t *testing.T) {
				t.Parallel()
				n, net := newNode(t, world.IptablesNFT, "hostport")
				n.web(net, "web", 8080)
				n.web(net, "other", 8081)
				want := n.rules()
				n.w.Iptables(world.V4, "-t", "nat", "-F")
				n.startAs("hostport-agent-faulty", []string{"HOSTPORT_FAULT=" + point})
				if !n.awaitDeath() {
					t.Error("the agent was not killed")
				}
				n.start()
				n.awaitRules(limit(world.IptablesNFT), "healed", want)
				n.reaches(8080, "web")
				n.await(answerTime, "in sync", func() bool { return n.w.Ctl("check").ExitCode == 0 })
			})
		}
	})
}

// awaitDeath waits until the agent was killed, or is ready without that.
func (n *node) awaitDeath() bool {
	n.Helper()
	dead := false
	n.await(answerTime, "killed or ready", func() bool {
		select {
		case <-n.ended:
			exit, ok := errors.AsType[*exec.ExitError](n.err)
			dead = ok && exit.Sys().(syscall.WaitStatus).Signaled()
			return true
		default:
			return len(n.log.find("ready")) > 0
		}
	})
	if !dead {
		if _, err := n.stop(syscall.SIGKILL); err == nil {
			n.Error("the agent ended well")
		}
	}
	return dead
}
