package iptables

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// variants are the two programs behind one name.
var variants = []string{"nft", "legacy"}

// world is an empty network namespace, with one variant of iptables that works
// in it as the only thing on the PATH.
type world struct {
	t       testing.TB
	bin     string
	variant string
	ns      string
	b       *Backend
}

// newWorld makes one. The namespace lives as long as the test.
func newWorld(t testing.TB, variant string) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root, to make a network namespace")
	}
	w := &world{t: t, bin: t.TempDir(), variant: variant, b: New(5*time.Second, memo{})}
	w.ns = newNamespace(t)
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, verb := range []string{"", "-save", "-restore"} {
			path := fmt.Sprintf("/usr/sbin/%s-%s%s", family, variant, verb)
			if _, err := os.Stat(path); err != nil {
				t.Fatalf("install the Debian package iptables: %v", err)
			}
			w.stub(family+verb, fmt.Sprintf("exec /usr/bin/nsenter --net=%s %s \"$@\"", w.ns, path))
		}
	}
	t.Setenv("PATH", w.bin)
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(w.bin, "lock"))
	return w
}

func newNamespace(t testing.TB) string {
	t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	c := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			c <- result{err: err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		c <- result{f, err}
	}()
	r := <-c
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { _ = r.f.Close() })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), r.f.Fd())
}

// stub puts a shell script on the PATH under that name.
func (w *world) stub(name, script string) {
	w.t.Helper()
	// Written elsewhere first: what is being executed cannot be written.
	tmp := filepath.Join(w.bin, name+".new")
	if err := os.WriteFile(tmp, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(w.bin, name)); err != nil {
		w.t.Fatal(err)
	}
}

// unstub brings the real tool back.
func (w *world) unstub(name string) {
	family, verb, _ := strings.Cut(name, "-")
	w.stub(name, fmt.Sprintf("exec /usr/bin/nsenter --net=%s /usr/sbin/%s-%s-%s \"$@\"", w.ns, family, w.variant, verb))
}

// run runs a tool in the namespace.
func (w *world) run(stdin string, args ...string) string {
	w.t.Helper()
	cmd := exec.CommandContext(context.Background(), args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("%v: %v: %s", args, err, stderr.String())
	}
	return string(out)
}

var counters = regexp.MustCompile(` \[\d+:\d+\]$`)

// saved is what the tool lists of a family: no remarks, no counters, no names of
// revisions, no tables that hold only empty built-in chains.
func (w *world) saved(f hostport.Family) string {
	w.t.Helper()
	var out, section []string
	interesting := false
	for line := range strings.SplitSeq(w.run("", saveTool(f)), "\n") {
		line = counters.ReplaceAllString(line, "")
		switch {
		case line == "" || line[0] == '#' || strings.HasPrefix(line, "-A "+revisionChain):
			continue
		case line[0] == '*':
			section, interesting = nil, false
		case line[0] == '-' || strings.HasSuffix(line, " -"):
			interesting = true
		}
		section = append(section, line)
		if line == "COMMIT" && interesting {
			out = append(out, section...)
		}
	}
	return strings.Join(out, "\n")
}

func (w *world) both() string {
	w.t.Helper()
	return w.saved(hostport.IPv4) + "\n" + w.saved(hostport.IPv6)
}

// eachVariant runs a test in a world of each variant.
func eachVariant(t *testing.T, test func(t *testing.T, w *world)) {
	for _, v := range variants {
		t.Run(v, func(t *testing.T) { test(t, newWorld(t, v)) })
	}
}

// memo is what a backend remembers.
type memo map[string]string

func (m memo) Recall(key string) (string, error) { return m[key], nil }
func (m memo) Remember(key, word string)         { m[key] = word }

// node is the state that a backend is told of: the attachments there are.
type node struct {
	b    *Backend
	atts []*hostport.Attachment
}

type rest struct {
	b    *Backend
	atts []*hostport.Attachment
}

func (r rest) Uses(name string) (bool, error) {
	for _, a := range r.atts {
		if slices.Contains(r.b.Shares(a), name) {
			return true, nil
		}
	}
	return false, nil
}

func (r rest) All() ([]*hostport.Attachment, error) { return r.atts, nil }

// change is what replaces remove by add on this node.
func (n *node) change(remove, add []*hostport.Attachment) hostport.Change {
	return hostport.Change{Remove: remove, Add: add, Rest: rest{n.b, n.without(remove)}}
}

func (n *node) without(remove []*hostport.Attachment) []*hostport.Attachment {
	var out []*hostport.Attachment
	for _, a := range n.atts {
		if !slices.Contains(remove, a) {
			out = append(out, a)
		}
	}
	return out
}

func (n *node) apply(t *testing.T, remove, add []*hostport.Attachment) {
	t.Helper()
	if err := n.b.Apply(t.Context(), n.change(remove, add)); err != nil {
		t.Fatal(err)
	}
	n.atts = append(n.without(remove), add...)
}

func (n *node) add(t *testing.T, a ...*hostport.Attachment) { t.Helper(); n.apply(t, nil, a) }
func (n *node) del(t *testing.T, a ...*hostport.Attachment) { t.Helper(); n.apply(t, a, nil) }

// attachment makes one: options are functions on it.
func attachment(id string, opts ...func(*hostport.Attachment)) *hostport.Attachment {
	a := &hostport.Attachment{
		Key:       hostport.Key{ContainerID: id, IfName: "eth0"},
		Network:   "net",
		Sandbox:   hostport.Sandbox{Inode: 4026531840},
		Pod:       hostport.Pod{Namespace: "ns", Name: "pod-" + id},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.0.40/24")},
		Backend:   "iptables",
		Options:   hostport.Options{SNAT: true, MarkMasqBit: 13},
	}
	for _, o := range opts {
		o(a)
	}
	return a
}

func addresses(ps ...string) func(*hostport.Attachment) {
	return func(a *hostport.Attachment) {
		a.Addresses = nil
		for _, p := range ps {
			a.Addresses = append(a.Addresses, netip.MustParsePrefix(p))
		}
	}
}

// maps adds mappings: "8080:80", "192.0.2.1/8080:80/udp".
func maps(ms ...string) func(*hostport.Attachment) {
	return func(a *hostport.Attachment) {
		for _, s := range ms {
			var m hostport.Mapping
			m.Protocol = hostport.TCP
			ports := s
			if ip, rest, ok := strings.Cut(s, "@"); ok {
				m.HostIP = netip.MustParseAddr(ip)
				ports = rest
			}
			if p, proto, ok := strings.Cut(ports, "/"); ok {
				ports, m.Protocol = p, hostport.Protocol(proto)
			}
			if _, err := fmt.Sscanf(ports, "%d:%d", &m.HostPort, &m.ContainerPort); err != nil {
				panic(err)
			}
			a.Mappings = append(a.Mappings, m)
		}
	}
}

// localnet has 127.0.0.1 on the node reach the pod.
func localnet(a *hostport.Attachment) { a.LocalnetVia = "br0" }

func options(o hostport.Options) func(*hostport.Attachment) {
	return func(a *hostport.Attachment) { a.Options = o }
}
