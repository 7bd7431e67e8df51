// Package agent runs hostport-agent on a node of test/world and lets other
// programs do to the node what they do in the field, while a client connects.
package agent

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

func TestMain(m *testing.M) {
	if root := os.Getenv(containerVariable); root != "" {
		fmt.Fprintln(os.Stderr, "container:", contain(root, os.Args[1:]))
		os.Exit(1)
	}
	os.Exit(world.MainWith(m, func(dir string) error {
		for name, flags := range map[string][]string{
			"hostport-agent":        {"-trimpath", "-ldflags", "-s -w"},
			"hostport-agent-faulty": {"-tags", "faultpoints"},
		} {
			args := append([]string{"build", "-o", filepath.Join(dir, name)}, flags...)
			if out, err := exec.Command("go", append(args, "github.com/hostport-cni/hostport/cmd/hostport-agent")...).CombinedOutput(); err != nil {
				return fmt.Errorf("build %s: %w\n%s", name, err, out)
			}
		}
		return nil
	}))
}
