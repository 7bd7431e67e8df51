package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hostport-cni/hostport/internal/fault"
)

// Action is what is done to a file.
type Action string

// The actions of a Change.
const (
	Install Action = "install" // a binary
	Backup  Action = "back up" // a configuration before its first edit
	Write   Action = "write"   // a configuration
	Rename  Action = "rename"  // a configuration, so that runtimes no longer load it, or load it again
	Remove  Action = "remove"
	Reload  Action = "reload" // make runtimes that watch a directory read it again
)

// Change is one change to a file, made or planned.
type Change struct {
	Action Action `json:"action"`
	Path   string `json:"path"`
	// Detail says why, or from where.
	Detail string `json:"detail,omitempty"`
	// Content is the new configuration.
	Content string `json:"content,omitempty"`

	// like is the file whose mode and owner a new file gets; from is a file
	// that is copied or renamed.
	like, from string
}

// Report says what was done, or would be done.
type Report struct {
	// DryRun is set if nothing was done.
	DryRun bool `json:"dryRun"`
	// Networks holds the networks whose configuration is affected.
	Networks []string `json:"networks"`
	// Changes are in the order in which they are made. There are none if nothing
	// has to be done.
	Changes  []Change `json:"changes"`
	Warnings []string `json:"warnings,omitempty"`
}

// add plans a change.
func (r *Report) add(c Change) { r.Changes = append(r.Changes, c) }

func (r *Report) warnf(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// Points returns the names of the points at which a test may kill an installer
// (see internal/fault).
func Points() []string {
	out := []string{pointNew}
	for _, a := range []Action{Install, Backup, Write, Rename, Remove, Reload} {
		out = append(out, pointAfter(a))
	}
	return out
}

func pointAfter(a Action) string { return "install-after-" + string(a) }

// execute makes the changes, in their order.
func execute(changes []Change) error {
	for _, c := range changes {
		if err := c.execute(); err != nil {
			return fmt.Errorf("%s %s: %w", c.Action, c.Path, err)
		}
		fault.Point(pointAfter(c.Action))
	}
	return nil
}

func (c Change) execute() error {
	switch c.Action {
	case Install:
		f, err := os.Open(c.from)
		if err != nil {
			return err
		}
		defer f.Close()
		return place(c.Path, "", f, 0o755)
	case Backup, Write:
		if err := os.MkdirAll(filepath.Dir(c.Path), 0o755); err != nil {
			return explain(err)
		}
		return place(c.Path, c.like, bytes.NewBufferString(c.Content), 0)
	case Rename:
		if err := os.Rename(c.from, c.Path); err != nil {
			return explain(err)
		}
		return syncDir(filepath.Dir(c.Path))
	case Reload:
		return reload(c.Path)
	default:
		return remove(c.Path)
	}
}

// attempts bounds how often an edit is repeated because another program changed
// the file meanwhile. If two programs undo each other's edits, an operator has
// to step in.
const attempts = 5

// locked plans and executes under the lock of a directory. Other programs do
// not take the lock: just before the first change, the planned networks are
// checked once more.
func locked(ctx context.Context, dir string, dryRun bool, plan func(*Report) ([]*network, error)) (*Report, error) {
	if !dryRun {
		unlock, err := lock(dir)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	for n := 1; ; n++ {
		r := &Report{DryRun: dryRun, Networks: []string{}, Changes: []Change{}}
		concerned, err := plan(r)
		if err != nil || dryRun {
			return r, err
		}
		for _, c := range concerned {
			err = errors.Join(err, c.unchanged())
		}
		if err == nil {
			return r, execute(r.Changes)
		}
		if n == attempts || !errors.Is(err, errChanged) {
			return r, err
		}
		if err := pause(ctx, time.Duration(n)*100*time.Millisecond); err != nil {
			return r, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
