package iptables

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStatus(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		done := w.steady() // nothing is listed
		if advice, err := w.b.Status(t.Context()); err != nil || len(advice) > 0 {
			t.Errorf("advice %q, error %v", advice, err)
		}
		done()
		if got := w.both(); strings.TrimSpace(got) != "" {
			t.Errorf("Status left:\n%s", got)
		}
	})
}

func TestStatusTellsWhatCannotBeUsed(t *testing.T) {
	version := func(v, rest string) string { return `[ "$1" = --version ] && { echo "x v` + v + `"; exit; }; ` + rest }
	for name, c := range map[string]struct {
		damage func(w *world)
		advice string
		want   string
	}{
		"IPv4 fails": {
			func(w *world) {
				w.stub("iptables-restore", version("1.8.9 (nf_tables)", "echo no such table >&2; exit 3"))
			},
			"", "IPv4: iptables-restore: exit status 3: no such table",
		},
		"IPv4 is missing": {func(w *world) { w.uninstall("iptables-save") }, "", "iptables-save not found on PATH"},
		"IPv6 fails": {
			func(w *world) { w.stub("ip6tables-restore", "echo no such table >&2; exit 3") },
			"IPv6: host ports cannot be programmed: ip6tables-restore: exit status 3: no such table", "",
		},
		"IPv6 is missing": {
			func(w *world) { w.uninstall("ip6tables-restore") },
			"IPv6: host ports cannot be programmed: iptables is not installed: ip6tables-restore not found", "",
		},
		"no table raw": {func(w *world) {
			w.stub("iptables-restore", version("1.8.9 (nf_tables)", `echo "iptables-restore: unable to initialize table 'raw'" >&2; exit 2`))
		}, "no table raw: host ports are not reachable at 127.0.0.1", ""},
		"old version":      {func(w *world) { w.stub("iptables-restore", version("1.8.4 (nf_tables)", "exit 0")) }, "iptables 1.8.4 is older", ""},
		"untested version": {func(w *world) { w.stub("iptables-restore", version("1.8.6 (nf_tables)", "exit 0")) }, "IPv4: iptables 1.8.6 is older than 1.8.7", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "nft")
			c.damage(w)
			advice, err := w.b.Status(t.Context())
			wantRefused(t, err, c.want)
			if got := strings.Join(advice, "\n"); !strings.Contains(got, c.advice) || c.advice == "" && got != "" {
				t.Errorf("advice %q, want %q", got, c.advice)
			}
		})
	}
}

func TestStatusBesideLegacyTables(t *testing.T) {
	w := newWorld(t, "nft")
	w.installVariant("legacy")
	w.run("", "iptables-legacy-restore")
	w.run("*nat\nCOMMIT\n", "iptables-legacy-restore")
	advice, err := w.b.Status(t.Context())
	if err != nil || len(advice) != 1 || !strings.Contains(advice[0], "tables of iptables-legacy are loaded") {
		t.Errorf("advice %q, error %v", advice, err)
	}
}

// TestHeldLock: another program that holds it is no error to what only reads.
func TestHeldLock(t *testing.T) {
	w := newWorld(t, "legacy") // the nf_tables variant has none
	w.b.Wait = time.Minute
	n := &node{b: w.b}
	n.add(t, everything())
	lock, err := os.Create(os.Getenv("XTABLES_LOCKFILE"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"iptables-restore", "ip6tables-restore"} {
		w.stub(tool, fmt.Sprintf(`case "$*" in *--wait*) echo "$*" >>%s/waited;; esac
`, w.bin)+w.real(strings.Replace(tool, "tables", "tables-legacy", 1)))
	}
	if advice, err := w.b.Status(t.Context()); err != nil || len(advice) > 0 {
		t.Errorf("advice %q, error %v", advice, err)
	}
	if waited, err := os.ReadFile(filepath.Join(w.bin, "waited")); err == nil {
		t.Errorf("a tool was started that waits for the lock: %s", waited)
	}
	n.agrees(t)
	if owners, err := w.b.Owners(t.Context()); err != nil || len(owners) != 1 {
		t.Errorf("%d owners, error %v", len(owners), err)
	}
}
