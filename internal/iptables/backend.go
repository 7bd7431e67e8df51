package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// DefaultWait is how long the tools wait for the xtables lock by default.
const DefaultWait = 30 * time.Second

const (
	workTime = 10 * time.Second
	undoTime = 10 * time.Second
)

// Backend programs host ports with the iptables tools on the PATH. It keeps
// nothing between calls but in its memory.
type Backend struct {
	// memory holds each family's revision; nil for a backend that has none.
	memory hostport.Memory
	// wait is how long a tool may wait for the xtables lock.
	wait time.Duration
	// work is what it may take beyond that.
	work time.Duration
	// undoing bounds the undoing of a change, which may come after its deadline.
	undoing time.Duration
}

// New makes a backend whose tools wait that long, in whole seconds, for the
// xtables lock; zero is DefaultWait. A tool that hangs is killed soon after.
// With a memory, which may be nil, it notices rules that were restored from
// another time.
func New(wait time.Duration, memory hostport.Memory) *Backend {
	if wait <= 0 {
		wait = DefaultWait
	}
	return &Backend{memory: memory, wait: max(wait, time.Second), work: workTime, undoing: undoTime}
}

// Shares names the chains that the attachment's rules need and others may need
// too, as "4/tcp/1f9" or "6/mark/13".
func (b *Backend) Shares(a *hostport.Attachment) []string {
	var names []string
	for _, f := range hostport.Families() {
		for _, sh := range sharesOf(f, a) {
			names = append(names, sh.name)
		}
	}
	return names
}

// step is a change within one family.
type step struct {
	family hostport.Family
	text   string
	after  revision
	// split is whether two transactions change something, so that one may have
	// happened although the process failed.
	split bool
	err   error
}

// Apply carries out one change in both families or in none: one process a
// family that the change touches, unless the kernel does not hold what the
// change says it does. Then that family is rewritten from all attachments.
func (b *Backend) Apply(ctx context.Context, c hostport.Change) error {
	steps, err := b.plan(c)
	if err != nil {
		return err
	}
	b.program(ctx, steps)
	if err := b.repair(ctx, c, steps); err != nil {
		return errors.Join(err, b.undo(ctx, c, steps))
	}
	return nil
}

func (b *Backend) plan(c hostport.Change) ([]*step, error) {
	var steps []*step
	for _, f := range hostport.Families() {
		s, err := changeScripts(f, c)
		if err != nil {
			return nil, err
		}
		after, err := b.revise(f, c, s)
		if err != nil && !errors.Is(err, errUnknown) {
			return nil, err
		}
		if text := s.String(); text != "" {
			steps = append(steps, &step{family: f, text: text, after: after, split: s.raw.changes(), err: err})
		}
	}
	return steps, nil
}

// program runs the steps that have not failed yet, all at once.
func (b *Backend) program(ctx context.Context, steps []*step) {
	var wg sync.WaitGroup
	for _, s := range steps {
		if s.err == nil {
			wg.Go(func() { s.err = b.restore(ctx, s.family, s.text) })
		}
	}
	wg.Wait()
	for _, s := range steps {
		if s.err == nil {
			b.remember(s.family, s.after)
		}
	}
}

// repair rewrites the families whose step failed.
func (b *Backend) repair(ctx context.Context, c hostport.Change, steps []*step) error {
	var rest []*hostport.Attachment
	read := false
	var errs []error
	for _, s := range steps {
		if s.err == nil {
			continue
		}
		if repairable(s.err) {
			if !read {
				var err error
				if rest, err = readAll(c); err != nil {
					return err
				}
				read = true
			}
			s.err = b.rewrite(ctx, s.family, rest, c.Add)
		}
		if s.err != nil {
			errs = append(errs, fmt.Errorf("program %s: %w", s.family, s.err))
		}
	}
	return errors.Join(errs...)
}

// repairable reports whether an error may come from what the kernel holds, and
// not from a tool that cannot be run, gets no lock or does not answer.
func repairable(err error) bool {
	return !errors.Is(err, ErrMissing) && !errors.Is(err, ErrLocked) && !killed(err)
}

// killed reports whether the tool did not get to its end.
func killed(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func readAll(c hostport.Change) ([]*hostport.Attachment, error) {
	if c.Rest == nil {
		return nil, nil
	}
	all, err := c.Rest.All()
	if err != nil {
		return nil, fmt.Errorf("read attachments for repair: %w", err)
	}
	return all, nil
}

// errUnknown stands for what the kernel holds after a step that may have been
// applied, or where nothing was remembered: repair finds out.
var errUnknown = errors.New("what the kernel holds is unknown")

// undo takes back what was applied of a change that failed.
func (b *Backend) undo(ctx context.Context, c hostport.Change, done []*step) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.undoing)
	defer cancel()
	back := c.Inverse()
	steps, err := b.plan(back)
	if err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	var undone []*step
	for _, d := range done {
		i := slices.IndexFunc(steps, func(s *step) bool { return s.family == d.family })
		if i < 0 {
			continue
		}
		switch {
		case d.err == nil:
		case killed(d.err) || d.split && repairable(d.err):
			steps[i].err = errUnknown // which makes repair find out
		default:
			continue
		}
		undone = append(undone, steps[i])
	}
	b.program(ctx, undone)
	if err := b.repair(ctx, back, undone); err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}

// Sync makes the kernel hold the rules of exactly these attachments, whatever
// was there. With none, nothing of ours is left in any family. What depends on
// others and cannot be made while they are not there (conditions that name an
// ipset that is gone, marking by an external chain that is gone) is left out,
// so that it does not cost the other attachments their ports; Check names it.
func (b *Backend) Sync(ctx context.Context, all []*hostport.Attachment) error {
	var errs []error
	for _, f := range hostport.Families() {
		if !uses(f, all) && !b.present(f) {
			continue
		}
		if err := b.rewrite(ctx, f, all, nil); err != nil {
			errs = append(errs, fmt.Errorf("program %s: %w", f, err))
		}
	}
	return errors.Join(errs...)
}

func uses(f hostport.Family, all []*hostport.Attachment) bool {
	for _, a := range all {
		if len(a.Forwards(f)) > 0 {
			return true
		}
	}
	return false
}

// present reports whether the node can hold rules of a family at all.
func (b *Backend) present(f hostport.Family) bool {
	if _, err := lookPath(saveTool(f)); err != nil {
		return false
	}
	return enabled(f)
}

// enabled reports whether the kernel speaks the family: IPv6 can be off.
func enabled(f hostport.Family) bool {
	if f == hostport.IPv4 {
		return true
	}
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}
