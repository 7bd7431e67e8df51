package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/test/world"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

// tool is the operator on the node of a World.
type tool struct {
	*testing.T
	w      *world.World
	binary string
	// env is what the tool has in its environment beside PATH.
	env []string
	// as is who starts it, nil for root.
	as *syscall.Credential
}

// run starts the tool with the state that the World's plugins have.
func (c tool) run(args ...string) (stdout, stderr string, status int) {
	c.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(c.binary, append([]string{"--data-dir", c.w.DataDir}, args...)...)
	cmd.Env = append([]string{"PATH=" + c.w.ToolDir}, c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as}
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := c.w.Node.Try(cmd.Start); err != nil {
		c.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		if _, exited := errors.AsType[*exec.ExitError](err); !exited {
			c.Fatal(err)
		}
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// want runs the tool, which has to succeed, and compares what it prints, with
// columns apart by one space.
func (c tool) want(stdout string, args ...string) {
	c.Helper()
	got, stderr, code := c.run(args...)
	var lines []string
	for line := range strings.Lines(got) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := strings.Split(stdout, "\n")
	if stdout == "" {
		want = nil
	}
	if diff := cmp.Diff(want, lines); diff != "" || code != 0 {
		c.Errorf("hostportctl %s: exit status %d, want 0; stderr %q; stdout (-want +got):\n%s",
			strings.Join(args, " "), code, stderr, diff)
	}
}

// fails runs the tool and wants an error with that text on standard error.
func (c tool) fails(status int, text string, args ...string) {
	c.Helper()
	stdout, stderr, code := c.run(args...)
	if code != status || !strings.Contains(stdout+stderr, text) {
		c.Errorf("hostportctl %s: exit status %d, want %d and %q\n%s%s", strings.Join(args, " "), code, status, text, stdout, stderr)
	}
}

func TestCommands(t *testing.T) {
	binary := world.Build(t, "github.com/hostport-cni/hostport/cmd/hostportctl", "-ldflags", "-X main.build=v1.2.3")
	for _, b := range world.Backends {
		scene := func(name string, run func(tool)) {
			t.Run(string(b)+"/"+name, func(t *testing.T) {
				t.Parallel()
				run(tool{T: t, w: world.New(t, world.Options{Backend: b}), binary: binary})
			})
		}
		scene("a node that never had a host port", nothing)
		scene("list", list)
		scene("what the kernel knows of each mapping", states)
		scene("Services on host ports", services)
		scene("rules flushed by another program", flushed)
		scene("a pod that is gone", gone)
		scene("names that are escape sequences", hostile)
		scene("status", status)
		scene("the state is where the conflists say", found)
		scene("uninstall of two state directories", twoStates)
		scene("a tool is missing", missingTools)
		scene("a process without CAP_NET_ADMIN", incapable)
		scene("a base rule is gone", unreached)
		scene("what nobody owns", strays)
		scene("a dry run", dryRun)
		scene("records that cannot be read", damaged)
	}
}

// nothing leaves a node that has no state without one.
func nothing(c tool) {
	c.fails(0, "no state in "+c.w.DataDir, "list")
	c.want("{\n\"version\": 1,\n\"hostPorts\": []\n}", "list", "-o", "json")
	c.fails(0, "no state in "+c.w.DataDir, "check")
	c.fails(0, "no state in "+c.w.DataDir, "prune")
	c.fails(0, "no state in "+c.w.DataDir, "sync")
	c.fails(0, "attachments: 0", "status", "--backend", c.w.Backend.Config())
	if out, errs, _ := c.run("doctor"); !strings.Contains(strings.Join(strings.Fields(out), " "), "no state in "+c.w.DataDir) {
		c.Errorf("doctor: %s%s", out, errs)
	}
	if _, err := os.Stat(c.w.DataDir); !errors.Is(err, os.ErrNotExist) {
		c.Errorf("a state directory was made: %v", err)
	}
	watched := c.w.CtlIn([]string{"timeout", "-s", "INT", "2.5"}, "list", "--watch")
	if n := strings.Count(string(watched.Stderr), "no state in"); n != 1 {
		c.Errorf("list --watch says %d times that there is no state:\n%s", n, watched.Stderr)
	}
	c.fails(0, "hostportctl v1.2.3 ", "version")
	c.fails(2, `unknown command "lsit"`, "lsit")
	c.fails(2, `--port "70000": want a port`, "list", "--port", "70000")
	c.fails(2, `--port "53/udq": unknown protocol`, "list", "--port", "53/udq")
	c.fails(2, `--output "xml": want table, wide, json or yaml`, "list", "-o", "xml")
	c.fails(2, `unknown backend "ipvs"`, "status", "--backend", "ipvs")
}

func list(c tool) {
	n := c.w.NewNetwork(world.NetworkOptions{})
	web := n.MustAdd(c, "web", world.TCP(8080, 80), world.UDP(53, 5353).On(world.V4.Node()))
	n.MustAdd(c, "db", world.TCP(5432, 5432))

	// What differs from run to run is cut off at the end of a line.
	table := func(args ...string) []string {
		c.Helper()
		out, stderr, code := c.run(append([]string{"list"}, args...)...)
		if code != 0 {
			c.Fatalf("list %v: %d %s", args, code, stderr)
		}
		var lines []string
		for line := range strings.Lines(out) {
			lines = append(lines, strings.Join(strings.Fields(line)[:3], " "))
		}
		return lines[1:]
	}
	dns := "192.0.2.1:53/udp default/web 10.244.0.2:5353"
	http := "8080/tcp default/web 10.244.0.2:80"
	sql := "5432/tcp default/db 10.244.0.3:5432"
	for _, test := range []struct {
		args []string
		want []string
	}{
		{nil, []string{dns, sql, http}},
		{[]string{"--port", "8080"}, []string{http}},
		{[]string{"-p", "53/UDP"}, []string{dns}},
		{[]string{"--pod", "web"}, []string{dns, http}},
		{[]string{"--pod", "default/db"}, []string{sql}},
	} {
		if diff := cmp.Diff(test.want, table(test.args...)); diff != "" {
			c.Errorf("list %v (-want +got):\n%s", test.args, diff)
		}
	}
	c.fails(0, "no host port is held", "list", "--port", "53/tcp")
	c.fails(0, web.Pod.ContainerID+"   eth0        "+c.w.Backend.Config(), "list", "-o", "wide")
	c.fails(0, "10.244.0.2:80,[fd00:10:244::2]:80", "list", "-o", "wide")

	out, _, _ := c.run("list", "-o", "json", "--port", "8080")
	var got listing
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		c.Fatalf("%v:\n%s", err, out)
	}
	if p := got.HostPorts; len(p) != 1 || p[0].ContainerID != web.Pod.ContainerID || p[0].HostPort != 8080 || p[0].State != "ok" || *p[0].Connections != 0 {
		c.Errorf("list -o json --port 8080: %s", out)
	}
}

// states are what list says of each mapping, from the kernel.
func states(c tool) {
	n := c.w.NewNetwork(world.NetworkOptions{})
	// 0.0.0.0 is how nerdctl asks for every address.
	n.MustAdd(c, "web", world.TCP(8080, 80), world.TCP(8083, 80).On(netip.IPv4Unspecified())).Pod.Serve("tcp", 80)
	n.MustAdd(c, "shadowed", world.TCP(8081, 80))
	dead := n.MustAdd(c, "dead", world.TCP(8082, 80))
	c.w.Node.Serve("tcp", 8081)
	for _, f := range world.Families {
		c.w.Client.Ask(c, "tcp", netip.AddrPortFrom(f.Node(), 8080))
	}
	c.w.Client.Ask(c, "tcp", netip.AddrPortFrom(world.V4.Node(), 8083))
	dead.Pod.Close()
	list := func(want string) {
		c.Helper()
		out, stderr, code := c.run("list")
		got := regexp.MustCompile(` +\d+s\n`).ReplaceAllString(out, "\n")
		got = regexp.MustCompile(` {2,}`).ReplaceAllString(got, "  ")
		if diff := cmp.Diff(want, got); diff != "" || code != 0 {
			c.Errorf("list (-want +got): exit status %d, %s\n%s", code, stderr, diff)
		}
	}
	list(`HOST  POD  POD ADDRESS  STATE  CONNECTIONS  AGE
8080/tcp  default/web  10.244.0.2:80  ok  2
8081/tcp  default/shadowed  10.244.0.3:80  shadowed  0
8082/tcp  default/dead  10.244.0.4:80  dead  0
0.0.0.0:8083/tcp  default/web  10.244.0.2:80  ok  1
`)
	for _, port := range []string{"8080", "8081", "8082"} {
		c.unmap(port)
	}
	out, stderr, code := c.run("list", "--port", "8080")
	if code != 0 || !strings.Contains(out, "out of sync") {
		c.Errorf("list after the rules of a port were deleted: exit status %d\n%s%s", code, out, stderr)
	}
}

// unmap deletes what leads a port to its pod, over IPv4.
func (c tool) unmap(port string) {
	c.Helper()
	if c.w.Backend == world.NFTables {
		c.w.NFT("delete element inet hostport v4 { tcp . " + port + " }")
		return
	}
	for line := range strings.Lines(c.w.Save(world.V4)) {
		if strings.Contains(line, "--dport "+port+" ") && strings.Contains(line, "-j DNAT") {
			chain := strings.Fields(line)[1]
			c.w.Iptables(world.V4, "-t", "nat", "-F", chain)
			return
		}
	}
}

func flushed(c tool) {
	n := c.w.NewNetwork(world.NetworkOptions{})
	n.MustAdd(c, "web", world.TCP(8080, 80))
	n.MustAdd(c, "db", world.TCP(5432, 5432))
	before := c.w.Ruleset()
	c.want("2 attachments: as recorded", "check")

	if c.w.Backend == world.NFTables {
		c.w.NFT("flush ruleset")
	} else {
		c.w.Iptables(world.V4, "-t", "nat", "-F")
	}
	out, _, code := c.run("check")
	if code != 1 || out == "" {
		c.Errorf("check after a flush: exit status %d, %q", code, out)
	}
	c.want("rules of 2 attachments written", "sync")
	c.want("2 attachments: as recorded", "check")
	if out, errs, _ := c.run("doctor"); !strings.Contains(strings.Join(strings.Fields(out), " "), "all rules last rewritten 20") {
		c.Errorf("doctor does not say when rules were rewritten: %s%s", out, errs)
	}
	if diff := cmp.Diff(before.WithoutPast(), c.w.Ruleset().WithoutPast()); diff != "" {
		c.Errorf("ruleset after sync (-want +got):\n%s", diff)
	}
}

func gone(c tool) {
	n := c.w.NewNetwork(world.NetworkOptions{})
	db := n.MustAdd(c, "db", world.TCP(5432, 5432))
	before := c.w.Ruleset()
	web := n.MustAdd(c, "web", world.TCP(8080, 80), world.UDP(8080, 80))
	web.Pod.Close()
	owner := "pod default/web (container " + web.Pod.ContainerID + ")"
	c.fails(1, owner+": its sandbox is gone", "check")
	c.want("removed "+owner+": 8080/tcp 8080/udp", "prune")
	c.want("every owner is alive", "prune")
	c.want("1 attachment: as recorded", "check")
	if diff := cmp.Diff(before, c.w.Ruleset()); diff != "" {
		c.Errorf("ruleset after prune (-want +got):\n%s", diff)
	}
	db.MustDel(c)
}

// hostile has a runtime that passes on names as bad as they come.
func hostile(c tool) {
	const name = "\x1b[2J\u009b31m\u202eweb\n\tnode"
	a := c.w.NewNetwork(world.NetworkOptions{}).MustAdd(c, "web", world.TCP(8080, 80))
	i := a.Invocation("ADD", nil)
	i.Args = strings.ReplaceAll(i.Args, "K8S_POD_NAME=web", "K8S_POD_NAME="+name)
	if out := c.w.Invoke(i); out.ExitCode != 0 {
		c.Fatalf("ADD: %s", out.Stdout)
	}
	a.Pod.Close()
	for _, args := range [][]string{{"list"}, {"list", "-o", "wide"}, {"list", "-o", "json"}, {"list", "-o", "yaml"}, {"check"}, {"prune"}} {
		stdout, stderr, _ := c.run(args...)
		if strings.ContainsAny(stdout+stderr, "\x1b\u009b\u202e") || !strings.Contains(stdout, "web") {
			c.Errorf("%v: %q %q", args, stdout, stderr)
		}
		if format := args[len(args)-1]; format == "json" || format == "yaml" { // JSON is YAML
			var got struct {
				HostPorts []struct{ Pod struct{ Name string } } `yaml:"hostPorts"`
			}
			if err := yaml.Unmarshal([]byte(stdout), &got); err != nil || len(got.HostPorts) != 1 || got.HostPorts[0].Pod.Name != name {
				c.Errorf("%v: %v, %q", args, err, stdout)
			}
		}
	}
}

func status(c tool) {
	config := c.w.Backend.Config()
	summary := func(attachments, ports int) string {
		var on []string
		for _, name := range backend.Names() {
			n := 0
			if name == config {
				n = attachments
			}
			on = append(on, fmt.Sprintf("%s %d", name, n))
		}
		return fmt.Sprintf("backend: %s\nstate: %s\nready: yes\nattachments: %d (%s)\nhost ports: %d",
			config, c.w.DataDir, attachments, strings.Join(on, ", "), ports)
	}
	c.want(summary(0, 0), "status", "--backend", config)
	a := c.w.NewNetwork(world.NetworkOptions{}).MustAdd(c, "web", world.TCP(8080, 80), world.TCP(8443, 443))
	c.want(summary(1, 2), "status", "--backend", config)

	lock, err := os.Open(filepath.Join(c.w.DataDir, "lock"))
	if err != nil {
		c.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		c.Fatal(err)
	}
	c.fails(2, "locked by another process", "list", "--lock-timeout", "50ms")
	if err := lock.Close(); err != nil {
		c.Fatal(err)
	}
	a.MustDel(c)

	c.w.RemoveTool("iptables-restore")
	c.fails(1, "ready:       no: IPv4: iptables is not installed", "status", "--backend", "iptables")
	c.fails(0, "backend:     nftables", "status")
}
