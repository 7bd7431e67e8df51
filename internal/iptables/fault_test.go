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

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/backend/conformance"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/netns"
)

// everything is an attachment that uses all there is, but for conditions.
func everything() *hostport.Attachment {
	return attachment("a", maps("8080:80", "53:53/udp", "192.0.2.1@8080:81"), addresses(strings.Fields(dual)...), localnet)
}

// TestFailedApplyIsRepairedByRewrite: whatever happened to a change, the records
// of before, rewritten, are the rules of before, and the change can be made again.
func TestFailedApplyIsRepairedByRewrite(t *testing.T) {
	for name, c := range map[string]struct {
		stub func(w *world)
		want string
	}{
		"both fail": {func(w *world) {
			w.stub("iptables-restore", "echo 'line 3 is odd' >&2; exit 1")
			w.stub("ip6tables-restore", "exit 4")
		}, "program IPv4: iptables-restore: exit status 1: line 3 is odd"},
		"IPv6 fails": {func(w *world) {
			w.stub("ip6tables-restore", "printf 'no\\033[31m\\nluck' >&2; exit 2")
		}, "program IPv6: ip6tables-restore: exit status 2: no?[31m; luck"},
		"IPv4 fails":      {func(w *world) { w.stub("iptables-restore", "exit 1") }, "exit status 1"},
		"IPv6 is missing": {func(w *world) { w.uninstall("ip6tables-restore") }, "ip6tables-restore not found on PATH"},
		"IPv6 hangs":      {func(w *world) { w.stub("ip6tables-restore", "/bin/sleep 1000 & wait") }, "no answer in"},
		"IPv6 is killed":  {func(w *world) { w.stub("ip6tables-restore", "kill -9 $$") }, "signal: killed"},
		"hangs after it has applied": {func(w *world) {
			tool := w.real("iptables-" + w.variant + "-restore")
			w.stub("iptables-restore", strings.TrimPrefix(tool, "exec ")+"\nexec /bin/sleep 1000")
		}, "no answer in"},
		"nat fails after raw": {func(w *world) {
			tool := strings.TrimPrefix(w.real("iptables-"+w.variant+"-restore"), "exec ")
			w.stub("iptables-restore", "/bin/sed '/COMMIT/q' | "+tool+"; exit 1")
		}, "exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			eachVariant(t, func(t *testing.T, w *world) {
				w.b.Wait = 1500*time.Millisecond - workTime // a tool that hangs is killed after workTime more
				w.run(kubeProxy, "iptables-restore", "--noflush")
				n := &node{b: w.b}
				other := attachment("b", maps("8081:80"), addresses("10.244.0.41/24", "fd00:10:244::29/64"))
				n.add(t, other)
				before := w.both()
				a := everything()
				c.stub(w)
				_, err := w.b.Apply(t.Context(), n.change(nil, []*hostport.Attachment{a}))
				if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, backend.ErrDrift) {
					t.Errorf("Apply: %v, want %q", err, c.want)
				}
				w.b.Wait = time.Second
				w.use(w.variant)
				n.rewrite(t)
				if diff := cmp.Diff(before, w.both()); diff != "" {
					t.Errorf("after an ADD that failed with %v and a rewrite (-before +after):\n%s", err, diff)
				}
				n.add(t, a)
				n.agrees(t)
				if n.resyncs > 0 {
					t.Error("the rewritten rules were not those on record")
				}
			})
		})
	}
}

// TestErrorsThatAreNotDrift: the kernel is as recorded, and refuses the change.
func TestErrorsThatAreNotDrift(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		n := &node{b: w.b}
		n.add(t, attachment("b", maps("8081:80")))
		before := w.both()
		for name, o := range map[string]hostport.Options{
			"set":   {ConditionsV4: []string{"-m", "set", "--match-set", "gone", "src"}},
			"chain": {SNAT: true, ExternalSetMarkChain: "KUBE-MARK-MASQ"},
			"match": {ConditionsV4: []string{"-m", "nosuch"}},
		} {
			a := attachment("a", maps("8080:80"), options(o))
			_, err := w.b.Apply(t.Context(), n.change(nil, []*hostport.Attachment{a}))
			if err == nil || errors.Is(err, backend.ErrDrift) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if diff := cmp.Diff(before, w.both()); diff != "" {
			t.Errorf("-before +after:\n%s", diff)
		}
	})
}

// TestNoTableRaw: the caller learns that it is what is missing. The texts are
// those of 1.8.9.
func TestNoTableRaw(t *testing.T) {
	for variant, said := range map[string]string{
		"legacy": "iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'raw'\n\nError occurred at line: 1",
		"nft":    "iptables-restore v1.8.9 (nf_tables): iptables-restore: line 1 table name 'raw' invalid\nError occurred at line: 1",
	} {
		w := newWorld(t, variant)
		w.stub("iptables-restore", `text=$(/bin/cat)
case $text in
*\*raw*) echo "`+said+`" >&2; exit 2;;
*) echo "$text" | `+strings.TrimPrefix(w.real("iptables-"+variant+"-restore"), "exec ")+`;;
esac`)
		a := attachment("a", maps("8080:80"), localnet)
		n := &node{b: w.b}
		_, err := w.b.Apply(t.Context(), n.change(nil, []*hostport.Attachment{a}))
		if !errors.Is(err, backend.ErrNoGuard) {
			t.Errorf("%s: %v", variant, err)
		}
		_, _, err = w.b.Rewrite(t.Context(), []*hostport.Attachment{a}, conformance.Fingerprint([]*hostport.Attachment{a}))
		if !errors.Is(err, backend.ErrNoGuard) {
			t.Errorf("%s: Rewrite: %v", variant, err)
		}
		a.LoopbackInterface = ""
		n.add(t, a)
	}
}

// TestHungToolLeavesNoProcess: what the tool had started goes with it.
func TestHungToolLeavesNoProcess(t *testing.T) {
	w := newWorld(t, "nft")
	pid := filepath.Join(w.bin, "pid")
	w.stub("iptables-restore", "/bin/sleep 1000 & echo $! >"+pid+"; wait")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := w.b.Apply(ctx, change(nil, nil, []*hostport.Attachment{attachment("a", maps("1:1"))}))
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
	netns.Enter(t)
	t.Setenv("PATH", t.TempDir())
	b := new(Backend)
	all := []*hostport.Attachment{attachment("a", maps("1:1"))}
	_, applyErr := b.Apply(t.Context(), change(nil, nil, all))
	_, _, rewriteErr := b.Rewrite(t.Context(), all, conformance.Fingerprint(all))
	_, checkErr := b.Check(t.Context(), all, conformance.Fingerprint(all))
	_, auditErr := b.Audit(t.Context(), all, conformance.Fingerprint(all))
	_, statusErr := b.Status(t.Context())
	for verb, err := range map[string]error{
		"Available": Available(), "Apply": applyErr, "Rewrite": rewriteErr, "Check": checkErr, "Audit": auditErr, "Status": statusErr,
	} {
		if !errors.Is(err, backend.ErrMissing) || !strings.Contains(err.Error(), "not found on PATH") {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if found, err := b.Owners(t.Context()); err != nil || len(found) > 0 {
		t.Errorf("Owners: %v, %v", found, err)
	}
	rewrite(t, b, nil)
	if found, err := b.Audit(t.Context(), nil, hostport.Fingerprint{}); err != nil || len(found) > 0 {
		t.Errorf("Audit with nothing recorded: %v, %v", found, err)
	}
}

// TestIPv6ToolsAreNotNeededWithoutIPv6 covers nodes where only the IPv4 half
// is installed or works.
func TestIPv6ToolsAreNotNeededWithoutIPv6(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.uninstall("ip6tables-restore", "ip6tables-save")
		a := attachment("a", maps("1:1"), localnet)
		n := &node{b: w.b}
		n.add(t, a)
		n.rewrite(t)
		n.agrees(t)
		if _, err := w.b.Status(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := w.b.Owners(t.Context()); err != nil {
			t.Error(err)
		}
		n.del(t, a)
	})
}

// holdXtablesLock does what a program does that changes rules of the legacy variant.
func holdXtablesLock(t *testing.T) (unlock func()) {
	t.Helper()
	lock, err := os.Create(os.Getenv("XTABLES_LOCKFILE"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() })
	fd := int(lock.Fd()) // not asked for in a timer, beside Close
	if err := syscall.Flock(fd, syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { _ = syscall.Flock(fd, syscall.LOCK_UN) }
}

func TestXtablesLock(t *testing.T) {
	w := newWorld(t, "legacy") // the nf_tables variant has none
	w.b.Wait = time.Second
	unlock := holdXtablesLock(t)
	n := &node{b: w.b}
	a := attachment("a", maps("8080:80"))
	start := time.Now()
	_, err := w.b.Apply(t.Context(), n.change(nil, []*hostport.Attachment{a}))
	if !errors.Is(err, backend.ErrBusy) || !strings.Contains(err.Error(), "waited 1s") {
		t.Errorf("Apply: %v", err)
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("Apply waited %s: once is enough", took)
	}
	w.b.Wait = 20 * time.Second
	timer := time.AfterFunc(time.Second, unlock)
	defer timer.Stop()
	n.add(t, a)
}

// TestOtherStateDirectory has a process with another state directory change the rules of
// the same network namespace: an Apply waits for it. One in another namespace does not.
func TestOtherStateDirectory(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		other := &Backend{w.b.Wait, w.b.Log}
		unlock, err := other.lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.b.Wait = time.Second
		n := &node{b: w.b}
		a := attachment("a", maps("8080:80"))
		if _, err := w.b.Apply(t.Context(), n.change(nil, []*hostport.Attachment{a})); !errors.Is(err, backend.ErrBusy) {
			t.Errorf("Apply: %v", err)
		}
		if _, _, err := w.b.Rewrite(t.Context(), []*hostport.Attachment{a}, hostport.Fingerprint{}); !errors.Is(err, backend.ErrBusy) {
			t.Errorf("Rewrite: %v", err)
		}
		if got := w.both(); strings.Contains(got, prefix) {
			t.Errorf("rules were written in spite of the lock:\n%s", got)
		}
		err = netns.New(t).Do(func(ns.NetNS) error {
			unlock, err := w.b.lock(t.Context())
			if err == nil {
				unlock()
			}
			return err
		})
		if err != nil {
			t.Errorf("in another network namespace: %v", err)
		}
		w.b.Wait = 20 * time.Second
		timer := time.AfterFunc(time.Second, unlock)
		defer timer.Stop()
		n.add(t, a)
		n.agrees(t)
	})
}

// TestLockFile has a file in the place of the lock that cannot be locked: nobody is waited
// for, and the rules are written.
func TestLockFile(t *testing.T) {
	w := newWorld(t, "nft")
	name := os.Getenv("XTABLES_LOCKFILE")
	for _, make := range []func() error{
		func() error { return os.Mkdir(name, 0o700) },
		func() error { return os.Symlink("/dev/null", name) },
		func() error { return syscall.Mkfifo(name, 0o600) },
		func() error { t.Setenv("XTABLES_LOCKFILE", filepath.Join(name, "missing")); return nil },
	} {
		if err := errors.Join(os.RemoveAll(name), make()); err != nil {
			t.Fatal(err)
		}
		n := &node{b: w.b}
		a := attachment("a", maps("8080:80"))
		n.add(t, a)
		n.rewrite(t)
		n.agrees(t)
		n.del(t, a)
	}
}

// TestNoRulesNoLock has a node on which nothing is to be rewritten: it makes no lock file.
func TestNoRulesNoLock(t *testing.T) {
	w := newWorld(t, "nft")
	if _, _, err := w.b.Rewrite(t.Context(), nil, hostport.Fingerprint{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(os.Getenv("XTABLES_LOCKFILE")); err == nil {
		t.Error("a lock file was made")
	}
}

// TestOtherToolsFail has a node without the plain tools, on which those of the nf_tables
// variant fail: its rules could not be read, which is more than that a tool is missing.
func TestOtherToolsFail(t *testing.T) {
	w := newWorld(t, "nft")
	n := &node{b: w.b}
	n.add(t, attachment("a", maps("8080:80")))
	w.uninstall("iptables-save")
	w.stub("iptables-nft-save", "exit 1")
	w.stub("iptables-nft-restore", "exit 1")
	if _, err := w.b.Audit(t.Context(), nil, hostport.Fingerprint{}); err == nil || errors.Is(err, backend.ErrMissing) {
		t.Errorf("Audit: %v", err)
	}
}
