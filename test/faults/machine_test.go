package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/world"
)

// machine is a node whose plugin can be made to die.
type machine struct {
	*world.World
	t        testing.TB
	plugin   string
	operator string
	config   world.Config // further keys of the plugin's configuration
	sandbox  *world.Netns // what every pod is in
	dir      string       // where sandboxes are mounted
	pods     int
}

func newMachine(t testing.TB, b world.Backend) *machine {
	t.Helper()
	w := world.New(t, world.Options{Backend: b})
	m := &machine{World: w, t: t, config: world.Config{"lockTimeout": "20s"}, sandbox: w.NewNetns("sandbox"), dir: t.TempDir()}
	var err, err2 error
	m.plugin, err = faultyPlugin()
	m.operator, err2 = operatorTool()
	if err = errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	// The interface that leads to the pods, on which 127.0.0.1 has to be let
	// through.
	w.Node.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "cni0"
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	})
	w.Node.AddAddress("cni0", "10.244.0.1/16")
	w.Node.AddAddress("cni0", "fd00:10:244::1/64")
	w.Node.Do(func() error {
		link, err := netlink.LinkByName("cni0")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	return m
}

// pod is a sandbox with an address. It has no interface, and its namespace is
// the others' too: what matters here are rules and records, and a sandbox's
// life is that of its mount.
type pod struct {
	m     *machine
	id    string
	name  string
	path  string
	n     int // decides the addresses
	ports []int
	dead  bool
}

// newPod makes a pod with the n-th address that maps TCP ports, and the UDP
// port of the same number for the first.
func (m *machine) newPod(n int, ports ...int) *pod {
	m.t.Helper()
	m.pods++
	p := &pod{
		m: m, n: n, ports: ports, name: fmt.Sprintf("pod%d", m.pods),
		id: fmt.Sprintf("%06d%058x", m.pods, uint64(m.pods)*0x9e3779b97f4a7c15),
	}
	p.path = filepath.Join(m.dir, p.name)
	err := os.WriteFile(p.path, nil, 0o600)
	if err == nil {
		err = unix.Mount(m.sandbox.Path, p.path, "", unix.MS_BIND, "")
	}
	if err != nil {
		m.t.Fatalf("make sandbox: %v", err)
	}
	m.t.Cleanup(p.die)
	return p
}

// die ends the sandbox, as a runtime does before it may or may not say DEL.
func (p *pod) die() {
	if p.dead {
		return
	}
	p.dead = true
	if err := errors.Join(unix.Unmount(p.path, unix.MNT_DETACH), os.Remove(p.path)); err != nil {
		p.m.t.Errorf("end sandbox: %v", err)
	}
}

// v4 is the pod's IPv4 address.
func (p *pod) v4() string { return fmt.Sprintf("10.244.%d.%d", (p.n+16)>>8, (p.n+16)&255) }

// args is CNI_ARGS as containerd sets it.
func (p *pod) args() string {
	return "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + p.name + ";K8S_POD_UID=" + p.id[:12]
}

// mappings are the pod's ports as a runtime sends them.
func (p *pod) mappings() []world.Mapping {
	out := []world.Mapping{}
	for i, port := range p.ports {
		out = append(out, world.TCP(port, 80))
		if i == 0 {
			out = append(out, world.UDP(port, 53))
		}
	}
	return out
}

// request is what a runtime would send for the pod.
func (m *machine) request(verb string, p *pod) world.Invocation {
	changes := world.Config{}
	maps.Copy(changes, m.config)
	changes["runtimeConfig"] = map[string]any{"portMappings": p.mappings()}
	changes["prevResult"] = world.PrevResult(p.path, p.v4()+"/16", fmt.Sprintf("fd00:10:244::%x/64", p.n+16))
	i := world.Invocation{Command: verb, ContainerID: p.id, IfName: "eth0", Netns: p.path, Args: p.args(), Stdin: m.Stdin(changes)}
	if p.dead && verb == "DEL" {
		i.Netns = ""
	}
	return i
}

// collect is a GC in which these pods are valid.
func (m *machine) collect(valid ...*pod) world.Invocation {
	list := []map[string]string{}
	for _, p := range valid {
		list = append(list, map[string]string{"containerID": p.id, "ifname": "eth0"})
	}
	changes := world.Config{"cni.dev/valid-attachments": list}
	maps.Copy(changes, m.config)
	return world.Invocation{Command: "GC", Stdin: m.Stdin(changes)}
}

// process is a plugin that runs in a process group of its own.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
}

// start starts the plugin on the node. env may name a fault.
func (m *machine) start(i world.Invocation, env ...string) (*process, error) {
	p := &process{cmd: exec.Command(m.plugin)}
	p.cmd.Env = append([]string{
		"PATH=" + m.ToolDir, "CNI_PATH=" + m.PluginDir, "CNI_COMMAND=" + i.Command, "CNI_CONTAINERID=" + i.ContainerID,
		"CNI_IFNAME=" + i.IfName, "CNI_NETNS=" + i.Netns, "CNI_ARGS=" + i.Args,
	}, append(i.Env, env...)...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = bytes.NewReader(i.Stdin), &p.stdout, &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = 5 * time.Second
	if err := m.Node.Try(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start plugin: %w", err)
	}
	return p, nil
}

// killGroup ends the plugin and whatever it has started: also tools that it
// gave a group of their own.
func (p *process) killGroup() {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.cmd.Process.Pid))
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	for pid := range strings.FieldsSeq(string(children)) {
		var n int
		if _, err := fmt.Sscan(pid, &n); err == nil {
			_ = syscall.Kill(-n, syscall.SIGKILL)
		}
	}
}

// outcome is how an invocation ended.
type outcome struct {
	world.Output
	killed bool
}

func (p *process) wait() outcome {
	_ = p.cmd.Wait()
	status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return outcome{
		Output: world.Output{Stdout: p.stdout.Bytes(), Stderr: p.stderr.Bytes(), ExitCode: p.cmd.ProcessState.ExitCode()},
		killed: status.Signaled(),
	}
}

// try runs an invocation to its end, whatever that is. A panic never is.
func (m *machine) try(i world.Invocation, env ...string) outcome {
	m.t.Helper()
	p, err := m.start(i, env...)
	if err != nil {
		m.t.Fatal(err)
	}
	o := p.wait()
	m.sane(i, o)
	return o
}

// sane fails when a plugin that was not killed panicked, or failed without a
// CNI error.
func (m *machine) sane(i world.Invocation, o outcome) {
	m.t.Helper()
	if o.killed {
		return
	}
	if bytes.Contains(o.Stderr, []byte("goroutine ")) {
		m.t.Errorf("%s panics: %s", i.Command, o.Stderr)
	}
	if _, err := o.Error(); err != nil {
		m.t.Errorf("%s: %v", i.Command, err)
	}
}

// must runs an invocation that has to succeed.
func (m *machine) must(i world.Invocation) {
	m.t.Helper()
	if o := m.try(i); o.ExitCode != 0 {
		m.t.Fatalf("%s of %.8s: exit %d, %s%s", i.Command, i.ContainerID, o.ExitCode, o.Stdout, o.Stderr)
	}
}

// control runs the operator's tool on the node. Its output is returned.
func (m *machine) control(args ...string) (string, error) {
	cmd := exec.Command(m.operator, append(args, "--data-dir", m.DataDir)...)
	cmd.Env = []string{"PATH=" + m.ToolDir}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := m.Node.Try(cmd.Start); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// bootID is that of the running kernel.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(b))
}

// openState takes the lock of the state and opens it as the plugin does.
func (m *machine) openState() *state.Store {
	m.t.Helper()
	s, err := state.Open(context.Background(), state.Options{
		Dir: m.DataDir, Timeout: 20 * time.Second, BootID: bootID(), Layout: backend.Layout, Backends: backend.Names(),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// recorded reads the state as it is, without recovering anything.
func (m *machine) recorded() (records []*hostport.Attachment, pending *state.Pending) {
	m.t.Helper()
	if !state.Exists(m.DataDir) {
		return nil, nil
	}
	s := m.openState()
	defer func() { _ = s.Close() }()
	err := s.Read(func(tx *state.Tx) (err error) {
		p, err := tx.Pending()
		if err != nil {
			return err
		}
		if len(p.Backends)+len(p.Changed) > 0 {
			pending = &p
		}
		records, _, err = tx.Records()
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return records, pending
}

func (m *machine) stateFile() string { return filepath.Join(m.DataDir, "state.db") }
