//go:build kernels

package integration

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

// TestWithoutIPv6 is for a kernel that was booted with ipv6.disable=1.
func TestWithoutIPv6(t *testing.T) {
	if world.HasIPv6() {
		t.Fatal("this kernel has IPv6")
	}
	for _, b := range world.Backends {
		t.Run(string(b), func(t *testing.T) {
			e := newEnv(t, world.Options{Backend: b}, world.V4)
			a := e.web()
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.reaches(e.w.Node, "tcp", netip.AddrPortFrom(e.f.Loopback(), 8080), "web")
			if err := e.net.Status(); err != nil {
				e.Errorf("STATUS: %v", err)
			}
			if out := e.w.Ctl("status"); out.ExitCode != 0 || strings.Contains(string(out.Stderr), "IPv6 ") {
				e.Errorf("hostportctl status: exit status %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
			}
			e.removeOurs()
			if out := e.w.Ctl("sync"); out.ExitCode != 0 {
				e.Errorf("hostportctl sync: exit status %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
			}
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.checks(a)
			e.properties()
		})
	}
}

// TestReboot has two parts, in two boots of one guest. A firewall service restores
// what it has saved while pods ran, and the state directory is on a disk.
func TestReboot(t *testing.T) {
	share := os.Getenv("HOSTPORT_SHARE")
	for _, b := range world.Backends {
		t.Run(string(b), func(t *testing.T) {
			e := newEnv(t, world.Options{Backend: b}, world.V4)
			rules := filepath.Join(share, "rules-"+string(b))
			state := filepath.Join(share, "state-"+string(b))
			if os.Getenv("HOSTPORT_PHASE") == "before" {
				a := e.web()
				saved := e.w.ListNFT()
				if b != world.NFTables {
					saved = e.w.Save(e.f)
				}
				if !strings.Contains(saved, a.Pod.ContainerID[:12]) {
					t.Fatalf("the saved rules do not name the pod:\n%s", saved)
				}
				e.must(os.WriteFile(rules, []byte(saved), 0o600), "save the rules")
				e.must(os.CopyFS(state, os.DirFS(e.w.DataDir)), "save the state")
				return
			}
			saved, err := os.ReadFile(rules)
			e.must(err, "read the rules")
			e.must(os.CopyFS(e.w.DataDir, os.DirFS(state)), "restore the state")
			switch {
			case b != world.NFTables:
				e.restore(string(saved))
			case world.NFTRestores():
				e.reload(string(saved))
			}
			e.webTo(e.net, "next", 8081)
			if now := e.w.Rules(e.f); strings.Contains(now, "default/web") {
				t.Errorf("a rule for a pod of the earlier boot is still there:\n%s", now)
			}
			e.reaches(e.w.Client, "tcp", e.node(8081), "next")
			e.webTo(e.net, "new", 8080)
			e.reaches(e.w.Client, "tcp", e.node(8080), "new")
			e.properties()
		})
	}
}
