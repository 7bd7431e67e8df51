package nftables

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/hostport-cni/hostport/test/netns"
)

// world is a network namespace of a test's own.
type world struct {
	tb testing.TB
	ns ns.NetNS
}

// newWorld makes one and moves the calling goroutine, which must be the test's, into
// it, until it makes another one.
func newWorld(tb testing.TB) *world {
	tb.Helper()
	return &world{tb, netns.Enter(tb)}
}

// do runs f on a thread inside the namespace.
func (w *world) do(f func() error) error { return w.ns.Do(func(ns.NetNS) error { return f() }) }

// try runs a command in the namespace.
func (w *world) try(stdin, name string, args ...string) (string, error) {
	var out bytes.Buffer
	err := w.do(func() error {
		cmd := exec.Command(name, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
		return cmd.Run()
	})
	return out.String(), err
}

func (w *world) run(name string, args ...string) string {
	w.tb.Helper()
	out, err := w.try("", name, args...)
	if err != nil {
		w.tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// nft runs one line of nft.
func (w *world) nft(line string) string {
	w.tb.Helper()
	return w.run("nft", strings.Fields(line)...)
}

// load feeds a ruleset to nft -f.
func (w *world) load(text string) {
	w.tb.Helper()
	if out, err := w.try(text, "nft", "-f", "-"); err != nil {
		w.tb.Fatalf("nft -f: %v\n%s\n%s", err, out, text)
	}
}

// ruleset lists everything, without counters.
func (w *world) ruleset() string {
	w.tb.Helper()
	return netns.NFTText(w.nft("list ruleset"))
}

// unordered is our table with what has no order sorted, sets and chains, which
// the kernel lists in the order in which they were made. "" if there is none.
func (w *world) unordered() string {
	w.tb.Helper()
	text, found := "", false
	for part := range strings.SplitSeq(w.ruleset(), "\n}\n") {
		if strings.HasPrefix(part, "table inet hostport {") {
			text, found = part, true
		}
	}
	if !found {
		return ""
	}
	blocks := strings.Split(text, "\n\n")
	slices.Sort(blocks[1:])
	return strings.Join(blocks, "\n\n")
}
