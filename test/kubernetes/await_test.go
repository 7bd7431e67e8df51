package kubernetes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// patience is for everything that has to happen by itself, on a slow machine too.
const patience = 2 * time.Minute

// await tries until it works, and says at the end why it did not.
func (c *cluster) await(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	if err := c.try(try); err != nil {
		t.Fatalf("waiting for %s: %v\n%s", what, err, c.node.lastWords())
	}
}

// try does not use the test's context: it also serves the cleaning up after it.
func (c *cluster) try(try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if dead := c.node.dead(); dead != "" {
			return fmt.Errorf("%s has ended by itself: %w", dead, err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// dead returns the name of a daemon that nobody killed and that runs no more.
func (n *node) dead() string {
	for name, d := range n.daemons {
		select {
		case <-d.exited:
			return name
		default:
		}
	}
	return ""
}

// lastWords returns the end of each daemon's log.
func (n *node) lastWords() string {
	const lines = 12
	var out strings.Builder
	paths, _ := filepath.Glob(filepath.Join(n.logs, "*.log"))
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		all := strings.Split(strings.TrimSpace(string(text)), "\n")
		all = all[max(0, len(all)-lines):]
		all = slices.DeleteFunc(all, func(line string) bool { return line == "" })
		fmt.Fprintf(&out, "--- %s\n%s\n", filepath.Base(path), strings.Join(all, "\n"))
	}
	return out.String()
}
