package faults

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/world"
)

// modelNode drives internal/node in this process, whose own network
// namespace is the node: thousands of steps would take too long as processes.
// Deaths, and a share of the rest, go through the real binary.
type modelNode struct {
	t       *testing.T
	plugin  string
	dir     string
	sandbox string // the namespace that every pod is in
	bootID  string // file in the place of the kernel's
	node    *node.Node
	model   *model
	pods    []*life
	dead    []*life
	lives   int
}

// life is one sandbox of a pod.
type life struct {
	id, path string
	ended    bool
}

func newModelNode(t *testing.T) *modelNode {
	t.Helper()
	plugin, err := faultyPlugin()
	if err != nil {
		t.Fatal(err)
	}
	n := &modelNode{t: t, plugin: plugin, dir: t.TempDir()}
	n.bootID = filepath.Join(n.dir, "boot_id")
	if err := os.WriteFile(n.bootID, []byte("boot-0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const kernels = "/proc/sys/kernel/random/boot_id"
	if err := unix.Mount(n.bootID, kernels, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("replace the boot ID: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(kernels, unix.MNT_DETACH) })

	w := world.New(t, world.Options{})
	n.sandbox = w.NewNetns("sandbox").Path
	tools := filepath.Join(n.dir, "tools")
	if err := os.Mkdir(tools, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		if err := os.Symlink("/usr/sbin/xtables-nft-multi", filepath.Join(tools, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", tools)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "model0"
	link := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	for _, a := range []string{"10.244.0.1/24", "fd00:10:244::1/64"} {
		addr, err := netlink.ParseAddr(a)
		if err == nil {
			err = netlink.AddrAdd(link, addr)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	return n
}

// run starts from an empty node and carries a sequence out. The error tells the
// first step after which node and model differ.
func (n *modelNode) run(sequence []action) error {
	n.reset()
	for i, a := range sequence {
		if err := n.do(a); err != nil {
			return fmt.Errorf("step %d, %s: %w", i, a, err)
		}
		if err := n.compare(); err != nil {
			return fmt.Errorf("after step %d, %s: %w", i, a, err)
		}
	}
	ctx := context.Background()
	if err := n.node.GC(ctx, "podnet", nil, true); err != nil {
		return err
	}
	if err := unlessNoState(n.node.Sync(ctx)); err != nil {
		return err
	}
	n.model = newModel()
	if err := n.compare(); err != nil {
		return fmt.Errorf("after GC of everything: %w", err)
	}
	if b, err := os.ReadFile(routeLocalnet); err != nil || string(b) != "0\n" {
		return fmt.Errorf("%w: route_localnet is %q after GC of everything, %w", errModel, b, err)
	}
	return nil
}

const routeLocalnet = "/proc/sys/net/ipv4/conf/model0/route_localnet"

func (n *modelNode) reset() {
	for _, l := range slices.Concat(n.pods, n.dead) {
		n.end(l)
	}
	n.pods, n.dead, n.model = make([]*life, modelPods), nil, newModel()
	n.lives++
	n.node = &node.Node{Dir: filepath.Join(n.dir, fmt.Sprintf("state-%d", n.lives)), Timeout: 20 * time.Second, Runtime: true, Log: slog.New(slog.DiscardHandler)}
	n.empty()
}

// empty does to the kernel what a reboot does.
func (n *modelNode) empty() {
	out, err := exec.Command("/usr/sbin/nft", "flush", "ruleset").CombinedOutput()
	if err == nil {
		err = os.WriteFile(routeLocalnet, []byte("0"), 0o600)
	}
	if err != nil {
		n.t.Fatalf("empty the kernel: %v: %s", err, out)
	}
}

// living returns a pod's sandbox, making one if it has none.
func (n *modelNode) living(pod int) *life {
	if n.pods[pod] != nil {
		return n.pods[pod]
	}
	n.lives++
	l := &life{id: fmt.Sprintf("pod%dlife%d", pod, n.lives)}
	l.path = filepath.Join(n.dir, l.id)
	err := os.WriteFile(l.path, nil, 0o600)
	if err == nil {
		err = unix.Mount(n.sandbox, l.path, "", unix.MS_BIND, "")
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { n.end(l) })
	n.pods[pod] = l
	return l
}

func (n *modelNode) end(l *life) {
	if l == nil || l.ended {
		return
	}
	l.ended = true
	if err := errors.Join(unix.Unmount(l.path, unix.MNT_DETACH), os.Remove(l.path)); err != nil {
		n.t.Errorf("end sandbox: %v", err)
	}
}

func (n *modelNode) lose(pod int) {
	if l := n.pods[pod]; l != nil {
		n.end(l)
		n.dead, n.pods[pod] = append(n.dead, l), nil
	}
}

// do carries one action out on node and model.
func (n *modelNode) do(a action) error {
	ctx := context.Background()
	switch kinds[a.kind] {
	case "ADD":
		return n.add(a, func(want *hostport.Attachment) error { return n.node.Add(ctx, want) })
	case "ADD by the binary":
		return n.add(a, func(want *hostport.Attachment) error { return n.binary("ADD", want, "") })
	case "killed ADD":
		return n.killed("ADD", a)
	case "DEL", "killed DEL":
		l := n.pods[a.pod]
		if l == nil {
			return nil
		}
		if kinds[a.kind] == "killed DEL" {
			return n.killed("DEL", a)
		}
		n.lose(a.pod)
		return n.del(l)
	case "late DEL":
		if len(n.dead) == 0 {
			return nil
		}
		return n.del(n.dead[a.pod%len(n.dead)])
	case "lose":
		n.lose(a.pod)
	case "CHECK":
		return n.check(a)
	case "GC":
		return n.gc(a)
	case "flush":
		if out, err := exec.Command("/usr/sbin/nft", "flush", "ruleset").CombinedOutput(); err != nil {
			return fmt.Errorf("flush: %w: %s", err, out)
		}
		for _, b := range backends {
			n.model.flushed[b] = true
		}
	case "reboot":
		n.reboot()
	}
	return nil
}

func (n *modelNode) reboot() {
	for i := range n.pods {
		n.lose(i)
	}
	n.lives++
	if err := os.WriteFile(n.bootID, fmt.Appendf(nil, "boot-%d\n", n.lives), 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.empty()
	n.model = newModel()
}

// want is the attachment that an action means.
func (n *modelNode) want(a action) *hostport.Attachment {
	l := n.living(a.pod)
	sb, err := sandbox.Identify(l.path)
	if err != nil {
		n.t.Fatal(err)
	}
	want := &hostport.Attachment{
		Key: hostport.Key{ContainerID: l.id, IfName: "eth0"}, Network: "podnet", Sandbox: sb,
		Pod:       hostport.Pod{Namespace: "default", Name: fmt.Sprintf("pod%d", a.pod)},
		Addresses: []netip.Prefix{netip.MustParsePrefix(modelV4(a.address) + "/24"), netip.MustParsePrefix(modelV6(a.address) + "/64")},
		Backend:   backends[a.backend],
		Options:   hostport.Options{SNAT: true, MarkMasqBit: 13},
		AddedAt:   time.Now().UTC().Truncate(time.Second),
	}
	for _, p := range portSets[a.ports] {
		want.Mappings = append(want.Mappings, hostport.Mapping{HostPort: uint16(p), ContainerPort: 80, Protocol: hostport.TCP})
	}
	return want
}

func (n *modelNode) entry(a action) entry {
	l := n.living(a.pod)
	return entry{ports: portSets[a.ports], address: a.address, backend: backends[a.backend], alive: func() bool { return !l.ended }}
}

func (n *modelNode) add(a action, do func(*hostport.Attachment) error) error {
	want := n.want(a)
	refused := n.model.add(want.ContainerID, n.entry(a))
	err := do(want)
	var held *node.ConflictError
	switch isHeld := errors.As(err, &held) || errors.Is(err, errHeld); {
	case err != nil && !isHeld:
		return err
	case isHeld != refused:
		return fmt.Errorf("%w: refused: %t, want %t (%w)", errModel, isHeld, refused, err)
	}
	return nil
}

func (n *modelNode) del(l *life) error {
	_, recorded := n.model.attachments[l.id]
	delete(n.model.attachments, l.id)
	removed, err := n.node.Delete(context.Background(), hostport.Key{ContainerID: l.id, IfName: "eth0"}, "podnet", true)
	if err == nil && (removed != nil) != recorded {
		return fmt.Errorf("%w: DEL removed %v, recorded: %t", errModel, removed, recorded)
	}
	return err
}

// check compares what CHECK says with what the model knows.
func (n *modelNode) check(a action) error {
	want := n.want(a)
	err := n.node.Check(context.Background(), want)
	e, recorded := n.model.attachments[want.ContainerID]
	same := recorded && slices.Equal(e.ports, portSets[a.ports]) && e.address == a.address
	var differs *node.DiffersError
	switch {
	case err != nil && !errors.As(err, &differs):
		return err
	case err == nil && !same:
		return fmt.Errorf("%w: CHECK is content", errModel)
	case err != nil && same && !n.model.flushed[e.backend]:
		return fmt.Errorf("%w: CHECK says %w", errModel, err)
	}
	return nil
}

// gc keeps the living whose number is below the action's.
func (n *modelNode) gc(a action) error {
	var valid []hostport.Key
	kept := map[string]bool{}
	for _, l := range n.pods[:a.pod] {
		if l != nil {
			valid = append(valid, hostport.Key{ContainerID: l.id, IfName: "eth0"})
			kept[l.id] = true
		}
	}
	for id := range n.model.attachments {
		if !kept[id] {
			delete(n.model.attachments, id)
		}
	}
	return n.node.GC(context.Background(), "podnet", valid, true)
}

// unlessNoState returns err, unless it says that there is no state yet.
func unlessNoState(err error) error {
	if _, missing := errors.AsType[*node.NoStateError](err); missing {
		return nil
	}
	return err
}

// compare finds differences between node and model.
func (n *modelNode) compare() error {
	// Any call recovers a change that was interrupted.
	if _, err := n.node.Delete(context.Background(), hostport.Key{ContainerID: "nobody", IfName: "eth0"}, "", false); err != nil {
		return err
	}
	all, err := n.node.List(context.Background())
	if err := unlessNoState(err); err != nil {
		return err
	}
	var got []string
	for _, r := range all {
		var ports []int
		for _, m := range r.Mappings {
			ports = append(ports, int(m.HostPort))
		}
		got = append(got, fmt.Sprintf("%s %v address %d on %s", r.ContainerID, ports, int(r.Addresses[0].Addr().As4()[3])-10, r.Backend))
	}
	recorded := map[string]bool{}
	for _, r := range all {
		recorded[r.ContainerID] = true
	}
	n.model.forget(recorded)
	if diff := cmp.Diff(n.model.describe(), got); diff != "" {
		return fmt.Errorf("%w: records (-model +node):\n%s", errModel, diff)
	}
	kernel, err := readForwards(func(name string, args ...string) (string, error) {
		out, err := exec.Command(name, args...).Output()
		return string(out), err
	}, false)
	if err != nil {
		return err
	}
	for _, b := range backends {
		if n.model.flushed[b] {
			continue // until the next ADD
		}
		mine := map[forward]int{}
		for f, count := range kernel {
			if len(f) > len(b) && string(f[:len(b)]) == b {
				mine[f] = count
			}
		}
		if diff := cmp.Diff(n.model.forwards(b), mine); diff != "" {
			return fmt.Errorf("%w: %s (-model +kernel):\n%s", errModel, b, diff)
		}
	}
	return nil
}
