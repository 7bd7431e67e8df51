package nftables

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// world is a network namespace of a test's own. It lives as long as its file
// is open and leaves nothing behind.
type world struct {
	tb   testing.TB
	file *os.File
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("this test makes network namespaces: run it as root")
	}
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: fmt.Errorf("unshare: %w", err)}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		made <- result{f, err}
	}()
	r := <-made
	if r.err != nil {
		tb.Fatal(r.err)
	}
	tb.Cleanup(func() { _ = r.file.Close() })
	return &world{tb, r.file}
}

// do runs f on a thread inside the namespace.
func (w *world) do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(w.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("setns: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

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

var counted = regexp.MustCompile(`packets \d+ bytes \d+`)

// ruleset lists everything, counters set to zero.
func (w *world) ruleset() string {
	w.tb.Helper()
	return counted.ReplaceAllString(w.nft("list ruleset"), "packets 0 bytes 0")
}

// unordered is our table with what has no order sorted: sets, chains and the
// rules of clients. The kernel lists them in the order in which they were made.
// "" if there is none.
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
	for i, block := range blocks {
		if lines := strings.Split(block, "\n"); strings.HasPrefix(block, "\tchain clients {") {
			slices.Sort(lines[1 : len(lines)-1])
			blocks[i] = strings.Join(lines, "\n")
		}
	}
	return strings.Join(blocks, "\n\n")
}

func (w *world) backend() *Backend { return New(WithNetNS(int(w.file.Fd()))) }
