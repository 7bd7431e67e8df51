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
		for _, b := range [][]string{
			{"hostport-agent", "hostport-agent", "-trimpath", "-ldflags", "-s -w"},
			{"hostport-agent-faulty", "hostport-agent", "-tags", "faultpoints"},
			{"hostport-agent-next", "hostport-agent", "-tags", "nextlayout"},
			{"hostport-next", "hostport", "-tags", "nextlayout"},
			{"hostportctl-next", "hostportctl", "-tags", "nextlayout"},
		} {
			args := append([]string{"build", "-o", filepath.Join(dir, b[0])}, b[2:]...)
			if out, err := exec.Command("go", append(args, "github.com/hostport-cni/hostport/cmd/"+b[1])...).CombinedOutput(); err != nil {
				return fmt.Errorf("build %s: %w\n%s", b[0], err, out)
			}
		}
		return nil
	}))
}
