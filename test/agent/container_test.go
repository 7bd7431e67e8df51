package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/world"
)

// containerVariable names the root of a container to the test program that is to
// become one.
const containerVariable = "AGENT_TEST_CONTAINER"

// capabilities are those that docs/agent.md asks for, less the one for kernel
// modules, which are loaded.
func capabilities() []uintptr {
	return []uintptr{
		unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SYS_PTRACE,
		unix.CAP_DAC_OVERRIDE, unix.CAP_CHOWN, unix.CAP_FOWNER,
	}
}

// contain replaces the process by a program in a container: in a mount namespace
// that has nothing but what is in root, and /proc. It shares the other namespaces,
// as a pod with hostPID and hostNetwork does.
func contain(root string, args []string) error {
	runtime.LockOSThread()
	proc, old := filepath.Join(root, "proc"), filepath.Join(root, "old")
	if err := errors.Join(os.MkdirAll(proc, 0o755), os.MkdirAll(old, 0o755), unix.Unshare(unix.CLONE_NEWNS)); err != nil {
		return err
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{root, root, "", unix.MS_BIND},
		{"proc", proc, "proc", 0},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := errors.Join(unix.Chdir("/"), unix.Unmount("/old", unix.MNT_DETACH), os.Remove("/old")); err != nil {
		return err
	}
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		if slices.Contains(capabilities(), c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	env := []string{"PATH=" + os.Getenv("PATH")}
	return unix.Exec(args[0], args, env)
}

// TestContainer runs the agent in a container that has no program but ours, as
// the DaemonSet does: it works with the node's own iptables, directories and
// sandboxes.
func TestContainer(t *testing.T) {
	for _, b := range []world.Backend{world.IptablesNFT, world.NFTables} {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			n, old := newNode(t, b, "portmap")
			a := n.web(old, "web", 8080)
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			failed := n.w.Client.Watch(t, address(world.V4, 8080))
			n.startProgram(self, []string{containerVariable + "=" + n.image}, "/hostport-agent",
				"--host-root", fmt.Sprintf("/proc/%d/root", os.Getpid()), "--replace-portmap", "--dead-owner-timeout", "1s")
			n.awaitReady()
			if errs := failed(); len(errs) > 0 {
				t.Errorf("%d connections failed: %v", len(errs), errs[0])
			}
			if got := n.conflist(); !strings.Contains(got, `"hostport"`) || strings.Contains(got, `"portmap"`) {
				t.Errorf("conflist: %s", got)
			}
			n.wantMetric(`hostport_mapping_info{container_port="80",host_ip="",host_port="8080",namespace="default",pod="web",protocol="tcp"}`, "1")

			next := n.network()
			n.web(next, "next", 8081)
			n.w.Node.Command("nft", "flush", "ruleset")
			for _, f := range world.Families { // a transaction each
				n.answers(f, 8081, limit(b))
			}
			n.reaches(8080, "web")

			// The runtime loses a DEL. The plugin has told by now from where it looks.
			a.Pod.Close()
			n.await(answerTime, "the dead owner is removed", func() bool {
				return n.metric(`hostport_mapping_info{container_port="80",host_ip="",host_port="8080",namespace="default",pod="web",protocol="tcp"}`) == ""
			})
			n.w.Client.Silence(t, "tcp", netip.AddrPortFrom(world.V4.Node(), 8080))
			n.reaches(8081, "next")
		})
	}
}
