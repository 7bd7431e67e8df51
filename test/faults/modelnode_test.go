package faults

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
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
	"github.com/hostport-cni/hostport/test/netns"
)

// modelNode drives internal/node in this process, whose own network
// namespace is the node: thousands of steps would take too long as processes.
// Deaths, and a share of the rest, go through the real binary.
type modelNode struct {
	t       *testing.T
	plugin  string
	next    string // the plugin of the next version
	dir     string
	tools   string // what PATH is
	variant string // of iptables: "nft" or "legacy"
	saved   *saved // what "restore" puts back
	bootID  string // file in the place of the kernel's
	node    *node.Node
	model   *model
	pods    []*life
	dead    []*life
	lives   int
	// held keeps the kernel from giving a namespace's inode number to the next
	// one: an owner that is read back from the rules is known by that number.
	held []*os.File
}

// life is one sandbox of a pod.
type life struct {
	id, path string
	ended    bool
}

func newModelNode(t *testing.T) *modelNode {
	t.Helper()
	plugin, err := faultyPlugin()
	next, err2 := nextPlugin()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	n := &modelNode{t: t, plugin: plugin, next: next, dir: t.TempDir()}
	n.tools = filepath.Join(n.dir, "tools")
	n.bootID = filepath.Join(n.dir, "boot_id")
	if err := os.WriteFile(n.bootID, []byte("boot-0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const kernels = "/proc/sys/kernel/random/boot_id"
	if err := unix.Mount(n.bootID, kernels, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("replace the boot ID: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(kernels, unix.MNT_DETACH) })

	if err := os.Mkdir(n.tools, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", n.tools)
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
	if err := n.noRules(); err != nil {
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
	for _, f := range n.held {
		_ = f.Close()
	}
	n.held = nil
	n.pods, n.dead, n.model = make([]*life, modelPods), nil, newModel()
	n.lives++
	n.node = n.withState(fmt.Sprintf("state-%d", n.lives))
	n.saved = nil
	n.use("nft")
	n.empty()
}

// withState is the node as a plugin sees it whose data directory has that name.
func (n *modelNode) withState(name string) *node.Node {
	return &node.Node{
		Dir: filepath.Join(n.dir, name), CacheDir: filepath.Join(n.dir, "no-cache"),
		Timeout: 20 * time.Second, Runtime: true, Log: slog.New(slog.DiscardHandler),
	}
}

// empty does to the kernel what a reboot does.
func (n *modelNode) empty() {
	n.flush()
	if err := os.WriteFile(routeLocalnet, []byte("0"), 0o600); err != nil {
		n.t.Fatalf("empty the kernel: %v", err)
	}
}

// living returns a pod's sandbox, making one if it has none.
func (n *modelNode) living(pod int) *life {
	if n.pods[pod] != nil {
		return n.pods[pod]
	}
	n.lives++
	l := &life{id: fmt.Sprintf("pod%dlife%d", pod, n.lives)}
	if err := n.mount(l); err != nil {
		n.t.Fatal(err)
	}
	n.pods[pod] = l
	return l
}

// mount makes a sandbox for a life.
func (n *modelNode) mount(l *life) error {
	l.path = filepath.Join(n.dir, l.id)
	n.t.Cleanup(func() { n.end(l) })
	if err := netns.Mount(l.path); err != nil {
		return err
	}
	f, err := os.Open(l.path)
	n.held = append(n.held, f)
	return err
}

func (n *modelNode) end(l *life) {
	if l == nil || l.ended {
		return
	}
	l.ended = true
	if err := netns.Unmount(l.path); err != nil {
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
		return n.add(a, func(want *hostport.Attachment) error { return n.node.Add(ctx, want, false) })
	case "ADD by the binary":
		return n.add(a, func(want *hostport.Attachment) error { return n.binary(n.plugin, "ADD", want, "") })
	case "ADD by the next version":
		err := n.add(a, func(want *hostport.Attachment) error { return n.binary(n.next, "ADD", want, "") })
		n.model.drifted(inSync) // it writes all rules in its own layout
		return err
	case "new sandbox":
		n.supersede(a.pod)
		return n.add(a, func(want *hostport.Attachment) error { return n.node.Add(ctx, want, false) })
	case "killed ADD":
		return n.killed("ADD", a)
	case "DEL", "killed DEL":
		l := n.pods[a.pod]
		if l == nil {
			return nil
		}
		if kinds[a.kind] == "killed DEL" {
			defer n.lose(a.pod) // the runtime ends the sandbox all the same
			return n.killed("DEL", a)
		}
		n.lose(a.pod)
		return n.del(l)
	case "late DEL":
		if len(n.dead) == 0 {
			return nil
		}
		l := n.dead[a.pod%len(n.dead)]
		n.end(l)
		return n.del(l)
	case "lose":
		n.lose(a.pod)
	case "CHECK":
		return n.check(a)
	case "GC":
		return n.gc(a)
	case "flush":
		n.flush()
		n.model.drifted(emptied)
	case "reboot":
		n.reboot()
	case "lose state":
		return n.loseState()
	case "save":
		n.save()
	case "restore":
		n.restore()
	case "change variant":
		n.changeVariant()
	case "second data directory":
		return n.secondState(a)
	}
	return nil
}

func (n *modelNode) reboot() {
	for i := range n.pods {
		n.lose(i)
	}
	for _, l := range n.dead {
		n.end(l) // a superseded sandbox may have been left
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
		Pod:       hostport.Pod{Namespace: "default", Name: fmt.Sprintf("pod%d", a.pod), UID: podUID(a)},
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

func podUID(a action) string { return fmt.Sprintf("uid-of-pod%d", a.pod) }

func (n *modelNode) entry(a action) entry {
	l := n.living(a.pod)
	return entry{pod: podUID(a), ports: portSets[a.ports], address: a.address, backend: backends[a.backend], alive: func() bool { return !l.ended }}
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
	case err != nil && same && n.model.drift[e.backend] == inSync:
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
	// Whoever is not valid is gone, superseded sandboxes too.
	for pod := a.pod; pod < modelPods; pod++ {
		n.lose(pod)
	}
	for _, l := range n.dead {
		n.end(l)
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
	// Any call recovers a change that was interrupted, and a DEL of a pod that had
	// ports a state that was lost.
	if _, err := n.node.Delete(context.Background(), hostport.Key{ContainerID: "nobody", IfName: "eth0"}, "", true); err != nil {
		return err
	}
	all, err := n.node.List(context.Background())
	if err := unlessNoState(err); err != nil {
		return err
	}
	var got []string
	for _, r := range all.Attachments {
		var ports []int
		for _, m := range r.Mappings {
			ports = append(ports, int(m.HostPort))
		}
		slices.Sort(ports)
		v4, _ := r.Address(hostport.IPv4)
		got = append(got, fmt.Sprintf("%s %v address %d on %s", r.ContainerID, ports, int(v4.Addr().As4()[3])-10, r.Backend))
	}
	recorded := map[string]bool{}
	for _, r := range all.Attachments {
		recorded[r.ContainerID] = true
	}
	n.model.forget(recorded)
	if diff := cmp.Diff(n.model.describe(), got); diff != "" {
		return fmt.Errorf("%w: records (-model +node):\n%s", errModel, diff)
	}
	kernel, err := readForwards(output, n.variant == "legacy")
	if err != nil {
		return err
	}
	for _, b := range backends {
		if n.model.drift[b] != inSync {
			continue // until the next change
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
