package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/hostport-cni/hostport/test/world"
)

// node is a node with an agent on it.
type node struct {
	*testing.T
	w     *world.World
	image string // where the agent's programs are
	bin   string // of the runtime
	conf  string
	cmd   *exec.Cmd
	log   *lines
	ended chan struct{}
	err   error // of the process, when it has ended
}

// newNode makes a node whose network is served by a plugin.
func newNode(t *testing.T, b world.Backend, plugin string) (*node, *world.Network) {
	t.Helper()
	w := world.New(t, world.Options{Backend: b})
	n := &node{T: t, w: w, image: t.TempDir(), bin: t.TempDir(), conf: w.ConfDir}
	for _, name := range []string{"hostport", "hostportctl", "hostport-agent", "hostport-agent-faulty"} {
		n.link(name, n.image)
	}
	for _, name := range []string{"bridge", "host-local", "portmap"} {
		n.link(name, n.bin)
	}
	net := w.NewNetwork(world.NetworkOptions{Type: plugin})
	n.write(net.Conflist)
	return n, net
}

func (n *node) link(name, dir string) {
	n.Helper()
	if err := os.Link(realPath(n, filepath.Join(n.w.PluginDir, name)), filepath.Join(dir, name)); err != nil {
		n.copy(name, dir)
	}
}

func (n *node) copy(name, dir string) {
	n.Helper()
	b, err := os.ReadFile(filepath.Join(n.w.PluginDir, name))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name), b, 0o755)
	}
	if err != nil {
		n.Fatal(err)
	}
}

func realPath(t testing.TB, path string) string {
	t.Helper()
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func (n *node) conflistPath() string { return filepath.Join(n.conf, "10-podnet.conflist") }

// write writes the network's conflist as main plugins do: not by a rename.
func (n *node) write(text []byte) {
	n.Helper()
	if err := os.WriteFile(n.conflistPath(), text, 0o644); err != nil {
		n.Fatal(err)
	}
}

func (n *node) conflist() string {
	n.Helper()
	b, err := os.ReadFile(n.conflistPath())
	if err != nil {
		n.Fatal(err)
	}
	return string(b)
}

// start starts the agent. It ends with the test.
func (n *node) start(args ...string) { n.startAs("hostport-agent", nil, args...) }

func (n *node) startAs(program string, env []string, args ...string) {
	n.Helper()
	n.startProgram(filepath.Join(n.image, program), env, args...)
}

// startProgram starts a program that is, or becomes, the agent.
func (n *node) startProgram(program string, env []string, args ...string) {
	n.Helper()
	args = append(args, "--data-dir", n.w.DataDir, "--conf-dir", n.conf, "--bin-dir", n.bin, "--cache-dir", n.w.CacheDir)
	n.log = new(lines)
	n.cmd = exec.Command(program, args...)
	n.cmd.Env = append([]string{"PATH=" + n.w.ToolDir}, env...)
	n.cmd.Stderr = n.log
	if err := n.w.Node.Try(n.cmd.Start); err != nil {
		n.Fatal(err)
	}
	cmd, log, ended := n.cmd, n.log, make(chan struct{})
	n.ended = ended
	go func() {
		n.err = cmd.Wait()
		close(ended)
	}()
	n.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if n.Failed() {
			n.Logf("log of the agent:\n%s", log)
		}
	})
}

// answerTime bounds waits for what nothing is promised of.
const answerTime = 30 * time.Second

// network is what the runtime reads from its configuration directory, with the
// plugins in its own directory.
func (n *node) network() *world.Network {
	n.Helper()
	n.w.PluginDir = n.bin
	return n.w.NetworkFromConflist([]byte(n.conflist()))
}

// stop sends a signal and returns how the agent ended, and how long that took.
func (n *node) stop(s syscall.Signal) (time.Duration, error) {
	n.Helper()
	start := time.Now()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.Fatal(err)
	}
	select {
	case <-n.ended:
		return time.Since(start), n.err
	case <-time.After(20 * time.Second):
		n.Fatal("the agent does not end")
		return 0, nil
	}
}

// get asks the agent over HTTP, in the node's network.
func (n *node) get(path string) (int, string) {
	n.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			var d net.Dialer
			err = ns.WithNetNSPath(n.w.Node.Path, func(ns.NetNS) error {
				c, err = d.DialContext(ctx, network, addr)
				return err
			})
			return c, err
		},
	}}
	r, err := client.Get("http://127.0.0.1:9477" + path)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		n.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// await waits until something is true.
func (n *node) await(limit time.Duration, what string, is func() bool) {
	n.Helper()
	start := time.Now()
	for !is() {
		if time.Since(start) > limit {
			n.Fatalf("%s: not within %v\n%s", what, limit, n.log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (n *node) awaitReady() {
	n.Helper()
	n.await(30*time.Second, "ready", func() bool { code, _ := n.get("/readyz"); return code == http.StatusOK })
}

// metric returns the value of a series, as it is written: "" if it is not there.
func (n *node) metric(series string) string {
	n.Helper()
	_, text := n.get("/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			return value
		}
	}
	return ""
}

func (n *node) wantMetric(series, want string) {
	n.Helper()
	if got := n.metric(series); got != want {
		n.Errorf("%s is %q, want %q", series, got, want)
	}
}

// web adds a pod that serves a host port.
func (n *node) web(net *world.Network, name string, port int) *world.Attachment {
	n.Helper()
	a := net.MustAdd(n, name, world.TCP(port, 80))
	a.Pod.Serve("tcp", 80)
	n.reaches(port, name)
	return a
}

func address(f world.Family, port int) netip.AddrPort {
	return netip.AddrPortFrom(f.Node(), uint16(port))
}

func (n *node) reaches(port int, name string) {
	n.Helper()
	for _, f := range world.Families {
		if got := n.w.Client.Ask(n, "tcp", address(f, port)); got.Server != name {
			n.Errorf("%s: port %d is answered by %q, want %q", f, port, got.Server, name)
		}
	}
}

// answers waits until a client is answered.
func (n *node) answers(f world.Family, port int, limit time.Duration) {
	n.Helper()
	n.await(limit, fmt.Sprintf("%s: port %d answers again", f, port), func() bool {
		_, err := n.w.Client.TryAsk("tcp", netip.AddrPort{}, address(f, port), 300*time.Millisecond)
		return err == nil
	})
}

// lines is what the agent logs.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// find returns the log's lines of a message.
func (l *lines) find(message string) (out []map[string]any) {
	for line := range strings.Lines(l.String()) {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) == nil && m["msg"] == message {
			out = append(out, m)
		}
	}
	return out
}
