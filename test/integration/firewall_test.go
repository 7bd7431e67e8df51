//go:build kernels

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// firewallScenarios are about the firewalls that distributions come with. They end
// with rules of those.
func firewallScenarios() []scenario {
	return []scenario{
		{name: "nftables.service is reloaded", run: func(e *env) {
			const conf = "flush ruleset\ntable inet filter { chain input { type filter hook input priority 0; tcp dport 25 drop; }; chain forward { type filter hook forward priority 0; }; }\n"
			e.w.NFT(conf)
			e.foreign()
			e.web()
			e.w.NFT(conf) // systemctl reload nftables
			e.webTo(e.net, "trigger", 8081)
			e.reaches(e.w.Client, "tcp", e.node(8080), "web")
			e.reaches(e.w.Client, "tcp", e.node(8081), "trigger")
		}},
		{name: "Docker's FORWARD DROP", tampers: true, run: dockerDrop},
		{name: "firewalld on nftables is reloaded", tampers: true, run: func(e *env) { firewalld(e, "nftables") }},
		{name: "firewalld on iptables is reloaded", tampers: true, run: func(e *env) { firewalld(e, "iptables") }},
		{name: "ufw is reloaded", tampers: true, families: v4Only, run: ufw},
	}
}

// dockerDrop has the rules that Docker sets. Packets to pods are dropped until
// the chain for the user's own rules lets them pass, and doctor says so.
func dockerDrop(e *env) {
	e.w.IptablesRestore(e.f, `*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
COMMIT
`)
	e.web()
	e.blocked("FORWARD")
	e.w.IptablesRestore(e.f, `*filter
-I DOCKER-USER -o cni0 -j ACCEPT
-I DOCKER-USER -i cni0 -j ACCEPT
COMMIT
`)
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
}

// blocked wants no packet to arrive, and doctor to name the chain.
func (e *env) blocked(chain string) {
	e.Helper()
	e.w.Client.Silence(e, "tcp", e.node(8080))
	out := e.w.Ctl("doctor")
	if text := string(out.Stdout); out.ExitCode != 1 || !strings.Contains(text, chain) {
		e.Errorf("hostportctl doctor: exit status %d, want 1 and the chain %s named\n%s%s", out.ExitCode, chain, text, out.Stderr)
	}
}

// firewalld starts the daemon, on a bus of its own, and has it reload. On iptables
// it flushes all tables then; the next ADD brings every host port back.
func firewalld(e *env, backend string) {
	// An address of D-Bus has no comma, and a socket's path is short.
	dir, err := os.MkdirTemp("", "firewalld")
	e.must(err, "make a directory")
	e.Cleanup(func() { _ = os.RemoveAll(dir) })
	conf := fmt.Sprintf("DefaultZone=public\nFirewallBackend=%s\nIPv6_rpfilter=no\nLogDenied=off\n", backend)
	e.must(os.WriteFile(filepath.Join(dir, "firewalld.conf"), []byte(conf), 0o600), "write the configuration")
	bus := "unix:path=" + filepath.Join(dir, "bus")
	environment := "export PATH=/usr/sbin:/usr/bin DBUS_SYSTEM_BUS_ADDRESS=" + bus + "; exec "
	e.w.Node.Run(e, "dbus-daemon", "--session", "--nofork", "--nopidfile", "--address="+bus)
	log := filepath.Join(dir, "log")
	e.w.Node.Run(e, "sh", "-c", environment+"firewalld --nofork --nopid --system-config "+dir+" --log-file "+log+" >/dev/null 2>&1")
	e.until("firewalld runs", log, func() bool {
		_, err := e.w.Node.TryCommand("", "sh", "-c", environment+"firewall-cmd --state")
		return err == nil
	})

	e.web()
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	e.w.Node.Command("sh", "-c", environment+"firewall-cmd --reload")
	e.webTo(e.net, "trigger", 8081)
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	e.reaches(e.w.Client, "tcp", e.node(8081), "trigger")
	e.checks(e.live...)
}

// ufw denies what passes through the node until a route is allowed. Its files are
// the guest's, so one scene at a time uses it.
func ufw(e *env) {
	lock, err := os.Create("/tmp/ufw.lock")
	e.must(err, "make a lock")
	defer lock.Close()
	e.must(unix.Flock(int(lock.Fd()), unix.LOCK_EX), "lock")
	run := func(script string) {
		e.Helper()
		e.w.Node.Command("sh", "-ec", "export PATH=/usr/sbin:/usr/bin:/sbin:/bin; "+script)
	}
	run("mkdir -p /etc/ufw; cp -n /usr/share/ufw/*.rules /usr/share/ufw/*.init /usr/share/ufw/ufw.conf /usr/share/ufw/iptables/*.rules /etc/ufw; ufw --force reset; ufw --force enable")
	e.web()
	e.blocked("FORWARD")
	run("ufw route allow proto tcp to any port 80")
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	run("ufw reload")
	e.webTo(e.net, "trigger", 8081)
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	e.reaches(e.w.Client, "tcp", e.node(8081), "trigger")
	e.checks(e.live...)
}

// until waits, and prints what a daemon has said if that takes too long.
func (e *env) until(what, log string, done func() bool) {
	e.Helper()
	for range 600 {
		if done() {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	said, _ := os.ReadFile(log)
	e.Fatalf("not in two minutes: %s\n%s", what, said)
}
