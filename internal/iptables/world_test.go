package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/backend/conformance"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/netns"
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

// newWorld makes one, and moves the calling thread into it. It lives as long as
// the test.
func newWorld(t testing.TB, variant string) *world {
	t.Helper()
	w := &world{t: t, bin: t.TempDir(), variant: variant, b: &Backend{5 * time.Second, slog.New(slog.DiscardHandler)}}
	w.ns = netns.Enter(t).Path()
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, verb := range []string{"", "-save", "-restore"} {
			w.install(family+verb, family+"-"+variant+verb)
		}
	}
	t.Setenv("PATH", w.bin)
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(w.bin, "lock"))
	return w
}

// install puts a tool of /usr/sbin, that works in the namespace, on the PATH.
func (w *world) install(name, tool string) {
	w.t.Helper()
	if _, err := os.Stat("/usr/sbin/" + tool); err != nil {
		w.t.Fatalf("install the Debian package iptables: %v", err)
	}
	w.stub(name, w.real(tool))
}

// real is the shell command of a tool that works in the namespace.
func (w *world) real(tool string) string {
	return fmt.Sprintf("exec /usr/bin/nsenter --net=%s /usr/sbin/%s \"$@\"", w.ns, tool)
}

// installVariant puts the tools of a variant on the PATH under the names that
// they always have.
func (w *world) installVariant(variant string) {
	w.t.Helper()
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, verb := range []string{"-save", "-restore"} {
			name := family + "-" + variant + verb
			w.install(name, name)
		}
	}
}

// use makes iptables lead to a variant, as update-alternatives does.
func (w *world) use(variant string) {
	w.variant = variant
	for _, name := range []string{"iptables", "ip6tables", "iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore"} {
		w.unstub(name)
	}
}

func (w *world) uninstall(names ...string) {
	w.t.Helper()
	for _, name := range names {
		if err := os.Remove(filepath.Join(w.bin, name)); err != nil {
			w.t.Fatal(err)
		}
	}
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
	family, verb, ok := strings.Cut(name, "-")
	if ok {
		verb = "-" + verb
	}
	w.install(name, family+"-"+w.variant+verb)
}

// steady has the tools that read fail, and the listing of chains with
// iptables-restore: changes must not need them.
func (w *world) steady() (done func()) {
	tools := []string{"iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore"}
	for _, tool := range tools {
		family, verb, _ := strings.Cut(tool, "-")
		w.stub(tool, `case "$*" in -t*|"--wait 1 --noflush") exit 1;; esac
`+w.real(family+"-"+w.variant+"-"+verb))
	}
	return func() {
		for _, tool := range tools {
			w.unstub(tool)
		}
	}
}

// run runs a tool in the namespace. Those of the legacy variant share one lock
// with the tools of every other test and wait for it.
func (w *world) run(stdin string, args ...string) string {
	w.t.Helper()
	if !strings.HasSuffix(args[0], "-save") {
		args = append(args, "--wait")
	}
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

// saved lists the rules of a family, without counters.
func (w *world) saved(f hostport.Family) string {
	w.t.Helper()
	return strings.TrimSuffix(netns.SaveText(w.run("", command(f)+"-save")), "\n")
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

// node is what internal/node does for a backend: it has the records, and resyncs
// after a change that failed.
type node struct {
	b    *Backend
	atts []*hostport.Attachment
	// seen is what the last change or rewrite returned.
	seen string
	// resyncs counts the changes that failed at first.
	resyncs int
}

// change is what replaces remove by add beside rest.
func change(rest, remove, add []*hostport.Attachment) backend.Change {
	return backend.Change{
		Remove: remove, Add: add, Others: conformance.Others(rest),
		Before: conformance.Fingerprint(slices.Concat(rest, remove)), After: conformance.Fingerprint(slices.Concat(rest, add)),
	}
}

func (n *node) change(remove, add []*hostport.Attachment) backend.Change {
	c := change(n.without(remove), remove, add)
	c.Seen = n.seen
	return c
}

// scriptsFor is what carries out c in family f, and what Change.Seen is after it if
// it touches no other family.
func scriptsFor(t testing.TB, f hostport.Family, c backend.Change) (text, seen string) {
	t.Helper()
	h := historiesBefore(c)
	s, err := changeScript(f, c, h)
	if err != nil {
		t.Fatal(err)
	}
	return s.String(), h.String()
}

// rewritten is what makes family f hold the rules of all and fingerprint fp.
func rewritten(f hostport.Family, there *ruleset, all []*hostport.Attachment, fp uint64) string {
	return rewriteText(there, wantRules(f, all, fp))
}

// audited is what differs from the rules of all.
func audited(f hostport.Family, there *ruleset, all []*hostport.Attachment, fp uint64) []backend.Difference {
	c, want := comparisonWith(there), wantRules(f, all, fp)
	c.compare(want)
	c.strays(want)
	return c.found
}

// comparisonWith takes conditions that are not listed as written for the same.
func comparisonWith(there *ruleset) *comparison {
	return &comparison{there: there, fields: make(map[chainID][]Fields), confirm: func(rule) error { return nil }}
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

// try applies a change, twice if the first fails.
func (n *node) try(t testing.TB, remove, add []*hostport.Attachment) error {
	t.Helper()
	seen, err := n.b.Apply(t.Context(), n.change(remove, add))
	if err != nil {
		n.resyncs++
		n.rewrite(t)
	}
	if errors.Is(err, backend.ErrDrift) {
		seen, err = n.b.Apply(t.Context(), n.change(remove, add))
	}
	if err == nil {
		n.seen = seen
		n.atts = append(n.without(remove), add...)
	}
	return err
}

func (n *node) apply(t testing.TB, remove, add []*hostport.Attachment) {
	t.Helper()
	if err := n.try(t, remove, add); err != nil {
		t.Fatal(err)
	}
}

func (n *node) rewrite(t testing.TB) { t.Helper(); n.seen = rewrite(t, n.b, n.atts) }

func rewrite(t testing.TB, b *Backend, atts []*hostport.Attachment) (seen string) {
	t.Helper()
	seen, _, err := b.Rewrite(t.Context(), atts, conformance.Fingerprint(atts))
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func (n *node) add(t testing.TB, a ...*hostport.Attachment) { t.Helper(); n.apply(t, nil, a) }
func (n *node) del(t testing.TB, a ...*hostport.Attachment) { t.Helper(); n.apply(t, a, nil) }

// differences is what Check says of some attachments.
func (n *node) differences(t testing.TB, some ...*hostport.Attachment) string {
	t.Helper()
	found, err := n.b.Check(t.Context(), some, conformance.Fingerprint(n.atts))
	return lines(t, found, err)
}

// audit is what Audit says.
func (n *node) audit(t testing.TB) string {
	t.Helper()
	found, err := n.b.Audit(t.Context(), n.atts, conformance.Fingerprint(n.atts))
	return lines(t, found, err)
}

func lines(t testing.TB, found []backend.Difference, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, d := range found {
		fmt.Fprintf(&b, "%s: %s\n", d.Owner.ContainerID, d.Text)
		if strings.Contains(d.Text, "\n") || d.Text == "" {
			t.Errorf("not one line: %q", d.Text)
		}
	}
	return b.String()
}

// agrees fails if anything in the kernel differs from the records.
func (n *node) agrees(t testing.TB) {
	t.Helper()
	if got := n.differences(t, n.atts...); got != "" {
		t.Errorf("Check:\n%s", got)
	}
	if got := n.audit(t); got != "" {
		t.Errorf("Audit:\n%s", got)
	}
}

// attachment makes one: options are functions on it.
func attachment(id string, opts ...func(*hostport.Attachment)) *hostport.Attachment {
	a := &hostport.Attachment{
		Key:       hostport.Key{ContainerID: id, IfName: "eth0"},
		Network:   "net",
		Sandbox:   hostport.Sandbox{Inode: 4026531840},
		Pod:       hostport.Pod{Namespace: "ns", Name: "pod-" + id},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.0.40/24")},
		Backend:   backend.Iptables,
		Options:   hostport.Options{SNAT: true, MarkMasqBit: 13},
		Boot:      "1a2b3c4d",
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

// maps adds mappings: "8080:80", "192.0.2.1@8080:80/udp".
func maps(ms ...string) func(*hostport.Attachment) {
	return func(a *hostport.Attachment) {
		for _, m := range ms {
			a.Mappings = append(a.Mappings, conformance.Mapping(m))
		}
	}
}

// localnet has 127.0.0.1 on the node reach the pod.
func localnet(a *hostport.Attachment) { a.LoopbackInterface = "br0" }

func options(o hostport.Options) func(*hostport.Attachment) {
	return func(a *hostport.Attachment) { a.Options = o }
}
