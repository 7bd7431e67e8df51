package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/test/world"
)

// Whatever is wrong with how a command is called, the error names it and says what to do.
func TestWrongCalls(t *testing.T) {
	empty := t.TempDir()
	for _, c := range []struct {
		args string
		want string
	}{
		{"lst", "unknown command \"lst\" for \"hostportctl\"\n\nDid you mean this?\n list"},
		{"list 8080", `hostportctl list takes no argument, and got "8080": ` + "`hostportctl list --help`"},
		{"sync now", `takes no argument, and got "now"`},
		{"explain", "which port? Say hostportctl explain 8080, or hostportctl explain 53/udp"},
		{"trace", "which port? Say hostportctl trace 8080"},
		{"trace 8080 8081", `want one port, not "8080 8081"`},
		{"list --data-dir state", `--data-dir "state": want an absolute path`},
		{"sync --data-dir state", `--data-dir "state": want an absolute path`},
		{"list --conf-dir /nowhere", "--conf-dir: stat /nowhere: no such file or directory"},
		{"list --lock-timeout -1s", "--lock-timeout -1s: want a time such as 30s"},
		{"list --lock-timeout 0", "--lock-timeout 0s: want a time such as 30s"},
		{"explain 8080 --probe -o xml", `--output "xml": want table, json or yaml`},
		{"explain 8080 --from 127.0.0.1", "--from 127.0.0.1 is the node: say --from node"},
		{"explain 8080 --from 0.0.0.0", "--from 0.0.0.0: want the address of one client"},
		{"explain 8080 --from 224.0.0.1", "--from 224.0.0.1: want the address of one client"},
		{"explain 8080 --interface eth9", `the node has no interface "eth9"`},
		{"trace 8080 -n 0", "--count 0: want 1 or more"},
		{"trace 8080 --timeout 0", "--timeout 0s: want a time such as 30s"},
		{"trace 8080 --timeout -5s", "--timeout -5s: want a time such as 30s"},
		{"doctor -o yaml", `--output "yaml": want table or json`},
		{"adopt -o table", `--output "table": want text or json`},
		{"install --bin-dir " + empty + " --conf-dir " + empty, empty + ": no network configuration: --conf-dir names another directory"},
		{"install --bin-dir " + empty + " --conf-dir /nowhere", "stat /nowhere: no such file or directory: --bin-dir and --conf-dir name the runtime's directories"},
		{"uninstall --conf-dir /nowhere", "open /nowhere: no such file or directory: --bin-dir and --conf-dir name the runtime's directories"},
		{"uninstall --network nope --conf-dir " + empty, `no network configuration of the name "nope" with hostport`},
	} {
		var stdout, stderr bytes.Buffer
		args := append([]string{"hostportctl"}, strings.Fields(c.args)...)
		if status := run(args, func(string) string { return "" }, &stdout, &stderr); status != 2 || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%s: exit status %d, want 2 and %q\n%s", c.args, status, c.want, stderr.String())
		}
		if stdout.Len() > 0 {
			t.Errorf("%s: standard output beside an error: %s", c.args, stdout.String())
		}
	}
	if left, err := os.ReadDir(empty); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A user without rights is told so, and shown nothing that only looks like an answer.
func TestWithoutRights(t *testing.T) {
	w := world.New(t, world.Options{})
	binary := world.Build(t, "github.com/hostport-cni/hostport/cmd/hostportctl")
	for dir := binary; dir != "/"; dir = filepath.Dir(dir) { // so that the user can run it
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := tool{T: t, w: w, binary: binary, as: &syscall.Credential{Uid: 65534, Gid: 65534}}
	for _, command := range []string{
		"list", "check", "sync", "prune", "status", "explain 8080", "trace 8080", "doctor", "adopt", "install", "uninstall",
	} {
		c.fails(2, "run it as root, not as user 65534", strings.Fields(command)...)
	}
	c.fails(0, "hostportctl ", "version")
	c.fails(0, "bash completion", "completion", "bash")
	c.fails(0, "explain\tTell why a packet", "__complete", "")
	c.fails(0, "explain\n", "__completeNoDesc", "")
	c.fails(0, "--output\t", "__complete", "list", "--o")
}

// The shell gets its words also where the state directory is still to be chosen.
func TestCompletionOfSeveralDirectories(t *testing.T) {
	conf := t.TempDir()
	for name, keys := range map[string]string{"podnet": `,"dataDir":"/run/one"`, "second": `,"dataDir":"/run/two"`} {
		if err := os.WriteFile(filepath.Join(conf, name+".conflist"), []byte(conflist(name, keys)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	getenv := func(name string) string { return map[string]string{confDirVariable: conf}[name] }
	for _, c := range []struct{ args, want string }{
		{"list", "list\n:4\n"}, {"completion", "completion\n:4\n"}, {"list --port ", ":1\n"}, {"explain ", ":1\n"},
	} {
		var stdout, stderr bytes.Buffer
		args := append([]string{"hostportctl", "__completeNoDesc"}, strings.Split(c.args, " ")...)
		if status := run(args, getenv, &stdout, &stderr); status != 0 || stdout.String() != c.want {
			t.Errorf("%s: exit status %d, %q, want %q\n%s", c.args, status, stdout.String(), c.want, stderr.String())
		}
	}
}

// What needs a tool that is missing says so, and nothing is called right that was not
// looked at.
func missingTools(c tool) {
	c.w.NewNetwork(world.NetworkOptions{}).MustAdd(c, "web", world.TCP(8080, 80))
	c.w.RemoveTool("iptables-save")
	ok, used := "ok", "!"
	if c.w.Backend != world.NFTables {
		ok, used = "out of sync", "✗"
		c.fails(1, "iptables-save not found on PATH", "check")
		c.fails(2, "iptables-save not found on PATH", "sync")
	}
	if out, errs, _ := c.run("list"); !strings.Contains(out, ok) {
		c.Errorf("list without iptables-save: want %q\n%s%s", ok, out, errs)
	}
	out, errs, _ := c.run("doctor")
	text := strings.Join(strings.Fields(out), " ")
	if !strings.Contains(text, used+" tools only the nftables backend can be used: iptables is not installed: iptables-save not found on PATH") ||
		strings.Contains(text, "modprobe") {
		c.Errorf("doctor without iptables-save:\n%s%s", out, errs)
	}
	c.w.RestoreTools()
	c.w.RemoveTool("ip6tables-restore")
	if out, errs, _ := c.run("doctor"); !strings.Contains(out, "ip6tables-restore is not on the PATH") {
		c.Errorf("doctor without ip6tables-restore:\n%s%s", out, errs)
	}
	c.w.RestoreTools()
}

// Root that may not ask the kernel is told what it lacks.
func incapable(c tool) {
	c.w.NewNetwork(world.NetworkOptions{}).MustAdd(c, "web", world.TCP(8080, 80))
	for _, x := range []struct {
		args    string
		status  int
		text    string
		without string
	}{
		{"list", 0, "default/web 10.244.0.2:80 - -", "ok"},
		{"check", 2, "CAP_NET_ADMIN in the node's network namespace is needed", "as recorded"},
		{"trace 8080", 2, "with CAP_NET_ADMIN in the node's network namespace: ", "no packet"},
		{"adopt", 2, "read what portmap left: ", "portmap serves no pod"},
		{"doctor", 1, "shows its rules to processes with CAP_NET_ADMIN", "portmap left no rules"},
		{"doctor", 1, "attachments on record: 1", "modprobe"},
	} {
		out := c.w.CtlIn([]string{"setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"}, strings.Fields(x.args)...)
		text := strings.Join(strings.Fields(string(out.Stdout)+string(out.Stderr)), " ")
		if out.ExitCode != x.status || !strings.Contains(text, x.text) || strings.Contains(text, x.without) {
			c.Errorf("%s without CAP_NET_ADMIN: exit status %d, want %d, %q and not %q\n%s%s",
				x.args, out.ExitCode, x.status, x.text, x.without, out.Stdout, out.Stderr)
		}
	}
}

// A base rule that is gone concerns every host port of the backend.
func unreached(c tool) {
	c.w.NewNetwork(world.NetworkOptions{}).MustAdd(c, "web", world.TCP(8080, 80))
	if c.w.Backend == world.NFTables {
		c.w.NFT("flush chain inet hostport prerouting")
	} else {
		c.w.Iptables(world.V4, "-t", "nat", "-F", "PREROUTING")
	}
	c.fails(0, "out of sync", "list")
	c.want("rules of 1 attachment written", "sync")
	c.fails(0, " ok ", "list")
}

// What no pod owns is none of those that are served.
func strays(c tool) {
	c.w.NewNetwork(world.NetworkOptions{}).MustAdd(c, "web", world.TCP(8080, 80))
	if c.w.Backend == world.NFTables {
		c.w.NFT("add chain inet hostport stray; add element inet hostport v4 { tcp . 7777 : 10.9.9.9 . 99 }")
	} else {
		c.w.Iptables(world.V4, "-t", "nat", "-N", "CNI-HP-STRAY")
		c.w.Iptables(world.V4, "-t", "nat", "-A", "CNI-HP-DNAT", "-p", "tcp", "--dport", "7777", "-j", "CNI-HP-STRAY")
	}
	c.fails(1, "7777", "check")
	out, errs, code := c.run("list")
	if code != 0 || !strings.Contains(out, " ok ") || !strings.Contains(errs, "rules that belong to no recorded pod: see `hostportctl check`") {
		c.Errorf("list: exit status %d\n%s%s", code, out, errs)
	}
	// One that sees every packet.
	if c.w.Backend == world.NFTables {
		c.w.NFT("add chain inet hostport stray2 { type filter hook input priority 0; policy drop; }")
	} else {
		c.w.Iptables(world.V4, "-t", "nat", "-I", "CNI-HP-DNAT", "-j", "ACCEPT")
	}
	c.fails(0, "out of sync", "list")
	c.want("rules of 1 attachment written", "sync")
	c.fails(0, " ok ", "list")
}

// A dry run removes no dead owner, and counts none.
func dryRun(c tool) {
	web := c.w.NewNetwork(world.NetworkOptions{}).MustAdd(c, "web", world.TCP(8080, 80))
	conf := c.TempDir()
	before := c.w.Ruleset()
	args := []string{"uninstall", "--conf-dir", conf, "--bin-dir", conf, "--dry-run"}
	c.fails(2, "holds 8080/tcp", args...)
	web.Pod.Close()
	c.fails(0, "nothing to do", args...)
	if diff := cmp.Diff(before, c.w.Ruleset()); diff != "" {
		c.Errorf("rules (-before +after):\n%s", diff)
	}
	c.fails(1, "its sandbox is gone", "check")
}

// Records that cannot be read are named, with what mends them, and left as they are.
func damaged(c tool) {
	c.w.NewNetwork(world.NetworkOptions{}).MustAdd(c, "web", world.TCP(8080, 80))
	path := filepath.Join(c.w.DataDir, "state.db")
	if err := os.Truncate(path, 18000); err != nil {
		c.Fatal(err)
	}
	before := c.w.Ruleset()
	for _, command := range []string{"list", "check", "status", "explain 8080", "adopt --dry-run"} {
		c.fails(2, "records in "+c.w.DataDir+": state file is damaged: it has 18000 bytes", strings.Fields(command)...)
	}
	out, errs, _ := c.run("doctor")
	if text := strings.Join(strings.Fields(out), " "); !strings.Contains(text, "✗ state the records could not be read: records in "+c.w.DataDir) {
		c.Errorf("doctor: %s%s", out, errs)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() != 18000 {
		c.Errorf("the file was changed: %v, %v", fi, err)
	}
	if diff := cmp.Diff(before, c.w.Ruleset()); diff != "" {
		c.Errorf("rules (-before +after):\n%s", diff)
	}
	c.fails(0, "rules of 1 attachment written", "sync")
	c.fails(0, "8080/tcp   default/web ", "list")
}
