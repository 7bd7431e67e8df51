package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// ErrMissing is returned when the PATH does not lead to the iptables tools.
var ErrMissing = errors.New("iptables is not installed")

// ErrLocked is returned when another program held the xtables lock for as long
// as we waited. Nothing was changed; later it may work.
var ErrLocked = errors.New("another program holds the xtables lock")

// Available reports ErrMissing if the tools for IPv4 are not on the PATH. It
// starts no process.
func Available() error {
	for _, tool := range []string{restoreTool(hostport.IPv4), saveTool(hostport.IPv4)} {
		if _, err := lookPath(tool); err != nil {
			return err
		}
	}
	return nil
}

// Beyond a killed tool's end, its pipes are held open no longer than this by
// whatever it had started.
const drainTime = time.Second

func restoreTool(f hostport.Family) string { return command(f) + "-restore" }
func saveTool(f hostport.Family) string    { return command(f) + "-save" }

func command(f hostport.Family) string {
	if f == hostport.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

func lookPath(tool string) (string, error) {
	path, err := exec.LookPath(tool)
	if err != nil {
		return "", fmt.Errorf("%w: %s not found on PATH", ErrMissing, tool)
	}
	return path, nil
}

// restore feeds text to iptables-restore. Each table in it is applied whole or
// not at all; an error says what the tool said.
func (b *Backend) restore(ctx context.Context, f hostport.Family, text string) error {
	// The nf_tables variant ignores --wait: there the kernel serialises.
	_, err := b.run(ctx, restoreTool(f), text, "--noflush", "--wait", strconv.Itoa(int(b.wait/time.Second)))
	return err
}

// save reads all tables of a family that exist. A single table is not asked
// for: the legacy variant would load it.
func (b *Backend) save(ctx context.Context, f hostport.Family) (ruleset, error) {
	out, err := b.run(ctx, saveTool(f), "")
	if err != nil {
		return ruleset{}, err
	}
	r, err := parseSave(out)
	if err != nil {
		return ruleset{}, fmt.Errorf("read output of %s: %w", saveTool(f), err)
	}
	return r, nil
}

// run runs a tool to its end and returns what it printed. What it complained of
// is in the error.
func (b *Backend) run(ctx context.Context, tool, stdin string, args ...string) (stdout string, err error) {
	path, err := lookPath(tool)
	if err != nil {
		return "", err
	}
	limit := b.wait + b.work
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer in %s: %w", limit, context.DeadlineExceeded))
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	// A group of its own: when the tool hangs, what it started goes with it. And
	// it dies with us, so that it does not commit when the next invocation has
	// the node. The signal is bound to the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = drainTime
	err = cmd.Run()
	switch {
	case err == nil:
		return out.String(), nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s: killed: %w", tool, context.Cause(ctx))
	case strings.Contains(said.String(), "holding the xtables lock"):
		return "", fmt.Errorf("%s: %w: waited %s", tool, ErrLocked, b.wait)
	default:
		return "", fmt.Errorf("%s: %w%s", tool, err, complaint(said.String()))
	}
}

// maxComplaint bounds what a tool's standard error adds to an error.
const maxComplaint = 1000

// complaint is what a tool wrote on standard error, on one line and without
// what could be control to a terminal.
func complaint(stderr string) string {
	s := strings.Join(strings.FieldsFunc(strings.ToValidUTF8(stderr, "?"), func(r rune) bool {
		return r <= ' ' || r == 0x7f || 0x80 <= r && r < 0xa0
	}), " ")
	if len(s) > maxComplaint {
		s = strings.ToValidUTF8(s[:maxComplaint], "") + "..."
	}
	if s == "" {
		return ""
	}
	return ": " + s
}
