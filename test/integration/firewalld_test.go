//go:build kernels

package integration

import (
	"os"
	"path/filepath"
	"strings"
)

// firewalld is a running daemon on a bus of its own.
type firewalld struct {
	e *env
	// environment is a shell's, for the daemon and its client.
	environment string
	// daemon and client are the programs' commands.
	daemon, client string
}

// startFirewalld starts this machine's firewalld, or the one that
// test/debian.sh has fetched.
func startFirewalld(e *env, bin, options string) *firewalld {
	e.Helper()
	// An address of D-Bus has no comma, and a socket's path is short.
	dir, err := os.MkdirTemp("", "firewalld")
	e.must(err, "make a directory")
	e.Cleanup(func() { _ = os.RemoveAll(dir) })
	conf := "DefaultZone=public\nIPv6_rpfilter=no\nLogDenied=off\n" + options
	e.must(os.WriteFile(filepath.Join(dir, "firewalld.conf"), []byte(conf), 0o600), "write the configuration")
	bus := "unix:path=" + filepath.Join(dir, "bus")
	fw := &firewalld{
		e: e, daemon: "firewalld", client: "firewall-cmd",
		environment: "export PATH=/usr/sbin:/usr/bin DBUS_SYSTEM_BUS_ADDRESS=" + bus + "; ",
	}
	if root := filepath.Join(filepath.Dir(bin), "root"); bin != "" {
		fw.daemon = bin + "/firewalld --default-config " + root + "/usr/lib/firewalld"
		fw.client = bin + "/firewall-cmd"
	}
	e.w.Node.Run(e, "dbus-daemon", "--session", "--nofork", "--nopidfile", "--address="+bus)
	log := filepath.Join(dir, "log")
	e.w.Node.Run(e, "sh", "-c", fw.environment+"exec "+fw.daemon+" --nofork --nopid --system-config "+dir+" --log-file "+log+" >>"+log+" 2>&1")
	if _, err := e.w.Node.TryCommand(busScript, "sh", "-c", fw.environment+"exec /usr/bin/python3 - wait"); err != nil {
		said, _ := os.ReadFile(log)
		e.Fatalf("firewalld does not run: %v\n%s", err, said)
	}
	return fw
}

// busScript does what firewall-cmd does, but waits for longer than 25 seconds,
// which are few for a guest.
const busScript = `
import dbus, sys, time
name, path = "org.fedoraproject.FirewallD1", "/org/fedoraproject/FirewallD1"
bus = dbus.SystemBus()
def call(interface, method, signature, args):
    return bus.call_blocking(name, path, interface, method, signature, args, timeout=600)
if sys.argv[1] == "reload":
    call(name, "reload", "", ())
deadline = time.time() + 600
while True:
    try:
        if call("org.freedesktop.DBus.Properties", "Get", "ss", (name, "state")) == "RUNNING":
            break
    except dbus.DBusException:
        if time.time() > deadline:
            raise
    time.sleep(1)
`

// reload has firewalld read its configuration anew, as systemctl reload does.
func (fw *firewalld) reload() {
	fw.e.Helper()
	if _, err := fw.e.w.Node.TryCommand(busScript, "sh", "-c", fw.environment+"exec /usr/bin/python3 - reload"); err != nil {
		fw.e.Fatal(err)
	}
}

// cmd runs firewall-cmd.
func (fw *firewalld) cmd(args string) {
	fw.e.Helper()
	fw.e.w.Node.Command("sh", "-c", fw.environment+fw.client+" "+args)
}

// reloadFirewalld: on iptables it flushes all tables then; the next ADD brings
// every host port back.
func reloadFirewalld(e *env, backend string) {
	fw := startFirewalld(e, "", "FirewallBackend="+backend+"\n")
	e.web()
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	fw.reload()
	e.webTo(e.net, "trigger", 8081)
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	e.reaches(e.w.Client, "tcp", e.node(8081), "trigger")
	e.checks(e.live...)
}

// strictForwardPorts has firewalld refuse what it has not translated itself, which
// doctor and explain tell. It lets the ports pass that it is told.
func strictForwardPorts(e *env) {
	bin := os.Getenv("HOSTPORT_FIREWALLD")
	if bin == "" {
		e.Fatal("HOSTPORT_FIREWALLD names no firewalld of version 2.3")
	}
	fw := startFirewalld(e, bin, "FirewallBackend=nftables\nStrictForwardPorts=yes\n")
	to := e.web().Addr(e.f)
	e.blocked("firewalld")
	const advice = "firewall-cmd --permanent --add-forward-port=port=8080:proto=tcp:toport=80:toaddr="
	if out := e.w.Ctl("explain", "--from", e.f.Client().String(), "8080/tcp"); !strings.Contains(string(out.Stdout), advice+to.String()) {
		e.Errorf("hostportctl explain does not advise %q:\n%s%s", advice+to.String(), out.Stdout, out.Stderr)
	}
	fw.cmd("--permanent --add-forward-port=port=8080:proto=tcp:toport=80:toaddr=" + to.String())
	fw.reload()
	e.reaches(e.w.Client, "tcp", e.node(8080), "web")
	if out := e.w.Ctl("doctor"); strings.Contains(string(out.Stdout), "✗ forward") {
		e.Errorf("hostportctl doctor still sees a rule that drops:\n%s", out.Stdout)
	}
	// firewalld translates nothing: the port follows its owner to the next address.
	e.del(e.live[0])
	e.webTo(e.net, "next", 8080)
	e.reaches(e.w.Client, "tcp", e.node(8080), "next")
	e.checks(e.live...)
}
