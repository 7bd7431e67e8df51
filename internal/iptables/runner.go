package iptables

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Available returns backend.ErrMissing if the tools for IPv4 are not on the PATH.
// It starts no process.
func Available() error { return variant{name: command(hostport.IPv4)}.missing() }

func lookPath(tool string) (string, error) {
	path, err := exec.LookPath(tool)
	if err != nil {
		return "", fmt.Errorf("%w: %s not found on PATH", backend.ErrMissing, tool)
	}
	return path, nil
}

// restore feeds text to a restore tool, which waits for the xtables lock. Each
// table in it is applied completely or not at all. The error wraps ErrDrift if a
// line failed that depends on what is there, and ErrNoGuard without a table raw.
// For "" it starts no process.
func (b *Backend) restore(ctx context.Context, tool, text string, wait time.Duration) error {
	if text == "" {
		return nil
	}
	// The nf_tables variant ignores --wait: there the kernel serialises.
	_, err := b.Run(ctx, tool, text, "--noflush", "--wait", strconv.Itoa(max(1, int(wait/time.Second))))
	switch {
	case errors.Is(err, backend.ErrBusy):
		return fmt.Errorf("%w: waited %s", err, wait)
	case !refused(err):
		return err
	case names(err, rawTable+"'"):
		return fmt.Errorf("%w: %w", backend.ErrNoGuard, err)
	case drift(err, text):
		return fmt.Errorf("%w: %w", backend.ErrDrift, err)
	}
	return err
}

// drift reports whether a tool failed in a line of text that depends on what is there, or
// misses a chain of ours. 1.8.7 (nf_tables) fails in the line COMMIT, whichever line was
// wrong, and reports a bad rule as "Error occurred at line: 3", which may be the next line.
func drift(err error, text string) bool {
	for complaint := range strings.SplitSeq(err.Error(), "; ") {
		var n int
		_, at, _ := strings.Cut(complaint, "line ")
		if _, err := fmt.Sscanf(at, "%d", &n); err != nil || !strings.Contains(at, " failed") {
			continue
		}
		if lines := strings.Split(text, "\n"); 0 < n && n <= len(lines) {
			line := lines[n-1]
			return line != "" && line[0] != '*' && !strings.HasPrefix(line, "-A ") && !strings.HasPrefix(line, "-I ")
		}
	}
	return names(err, prefix)
}

// names reports whether a tool's error is about something whose name begins with
// prefix. Older versions open the quotation with a backquote.
func names(err error, prefix string) bool {
	said := err.Error()
	return strings.Contains(said, "'"+prefix) || strings.Contains(said, "`"+prefix)
}

// workTime is how long a tool may take beyond its wait for the lock.
const workTime = 10 * time.Second

// Run runs a tool to its end and returns its output. The error has its error output, in
// one line. A tool that hangs is killed, with the processes that it started.
func (b *Backend) Run(ctx context.Context, tool, stdin string, args ...string) (stdout string, err error) {
	path, err := lookPath(tool)
	if err != nil {
		return "", err
	}
	limit := b.Wait + workTime
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer in %s: %w", limit, context.DeadlineExceeded))
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var said strings.Builder
	cmd.Stdin, cmd.Stderr = strings.NewReader(stdin), &said
	// A process group of its own, so that the processes that it started are killed too. It
	// also dies with us, so that it does not commit while the next invocation changes the
	// node. The kernel sends the signal when the thread that started the process ends. The
	// Go runtime ends a thread only if a goroutine ends locked to it (golang/go#27505), and
	// none does beside a tool that changes rules. To lock this one would start another
	// thread, which takes 2 percent of a DEL.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for processes that it started and that hold its pipes open
	out, err := cmd.Output()
	complaint := backend.OneLine(said.String(), 1000)
	switch {
	case err == nil:
		return string(out), nil
	case ctx.Err() != nil:
		err = fmt.Errorf("killed: %w", context.Cause(ctx))
	case strings.Contains(complaint, "holding the xtables lock"):
		err = backend.ErrBusy
	case complaint != "":
		err = fmt.Errorf("%w: %s", err, complaint)
	}
	return "", fmt.Errorf("%s: %w", tool, err)
}
