//go:build kernels

package integration

import (
	"os"
	"strings"

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
		{name: "firewalld on nftables is reloaded", tampers: true, run: func(e *env) { reloadFirewalld(e, "nftables") }},
		{name: "firewalld on iptables is reloaded", tampers: true, families: v4Only, run: func(e *env) { reloadFirewalld(e, "iptables") }},
		{name: "firewalld's StrictForwardPorts", tampers: true, families: v4Only, run: strictForwardPorts},
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

// ufw denies what passes through the node until a route is allowed. Its files are
// the guest's, so one scene at a time uses it.
func ufw(e *env) {
	lock, err := os.Create("/tmp/ufw.lock")
	e.must(err, "make a lock")
	defer lock.Close()
	e.must(unix.Flock(int(lock.Fd()), unix.LOCK_EX), "lock")
	e.w.InstallVariants() // ufw takes the guest's own iptables, which is seen by its own name then
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
