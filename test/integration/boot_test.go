//go:build kernels

package integration

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// TestLackingKernel takes modules away that a kernel made smaller may lack. STATUS
// and ADD fail and say what is missing, and ADD leaves nothing, unless pods can be
// served without it.
func TestLackingKernel(t *testing.T) {
	for _, c := range []struct {
		backend        world.Backend
		module, reason string
		// silent is STATUS: it asks iptables for its tables, and for no match.
		silent bool
	}{
		{world.NFTables, "nft_fib_inet", "the kernel lacks the fib expression (Linux 4.10 or newer, CONFIG_NFT_FIB_INET)", false},
		{world.NFTables, "nft_masq", "the kernel lacks masquerading in family inet (Linux 5.2 or newer, CONFIG_NFT_MASQ)", false},
		{world.NFTables, "nft_chain_nat", "the kernel lacks NAT in family inet (Linux 5.2 or newer, CONFIG_NFT_NAT)", false},
		{world.IptablesNFT, "xt_addrtype", "addrtype", true},
		{world.IptablesLegacy, "xt_addrtype", "addrtype", true},
		{world.IptablesLegacy, "iptable_nat", "nat", false},
	} {
		t.Run(string(c.backend)+"/"+c.module, func(t *testing.T) {
			e := newEnv(t, world.Options{Backend: c.backend}, world.V4)
			restore := e.withoutModule(c.module)
			if err := e.net.Status(); !c.silent && (err == nil || !strings.Contains(err.Error(), c.reason)) {
				t.Errorf("STATUS: %v, want an error with %q", err, c.reason)
			}
			pod := e.w.NewPod("web")
			a, err := e.net.Add(pod, world.TCP(8080, 80))
			if err == nil || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("ADD: %v, want an error with %q", err, c.reason)
			}
			a.MustDel(e)
			if out := e.w.Ctl("list"); out.ExitCode != 0 || strings.Contains(string(out.Stdout), "8080") {
				t.Errorf("hostportctl list after an ADD that failed: exit status %d\n%s%s", out.ExitCode, out.Stdout, out.Stderr)
			}
			restore()
			e.web()
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
		})
	}
	// Without this one only 127.0.0.1 is left out. To iptables-nft raw is a name.
	t.Run(string(world.IptablesLegacy)+"/iptable_raw", func(t *testing.T) {
		e := newEnv(t, world.Options{Backend: world.IptablesLegacy}, world.V4)
		restore := e.withoutModule("iptable_raw")
		defer restore()
		e.allButLoopback(true)
		e.properties()
	})
}

// withoutModule removes a module from the kernel, and keeps it from being loaded.
func (e *env) withoutModule(module string) (restore func()) {
	e.Helper()
	const conf = "/etc/modprobe.d/hostport-test.conf"
	e.must(os.WriteFile(conf, []byte("install "+module+" /bin/false\n"), 0o600), "block the module")
	e.Cleanup(func() { _ = os.Remove(conf) })
	// Namespaces of earlier tests are freed late.
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Second) {
		_, missing := os.Stat("/sys/module/" + module)
		if missing != nil {
			break
		}
		if _, err := e.w.Node.TryCommand("", "modprobe", "-r", module); err != nil && time.Now().After(deadline) {
			e.Fatal(err)
		}
	}
	return func() { _ = os.Remove(conf) }
}
