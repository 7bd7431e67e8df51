// Package upgrade runs two versions of the plugin on one node, one after the
// other: versions of the past, built from the repository's history, and the
// next one, which is this one with another layout of the rules.
package upgrade

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

// past are the last commit with 256 ports in a chain, the last that stored the names
// of chains, the last of the layouts 2 and 3, and the last whose records encoding/json
// wrote, which has this version's layout.
var past = []string{"c97ecc5", "bada6ac", "c7ca5b6", layout3, layout4}

const (
	layout3 = "9ebd5f9" // wrote the rules of layout 4 on nftables
	layout4 = "be2bba5"
)

// next is the name of the plugin of another layout.
const next = "next"

func TestMain(m *testing.M) {
	os.Exit(world.MainWith(m, func(dir string) error {
		for _, commit := range past {
			err := world.BuildCommit(commit, filepath.Join(dir, "hostport-"+commit))
			if err != nil && !errors.Is(err, world.ErrNoCommit) {
				return err
			}
		}
		out, err := exec.Command("go", "build", "-tags", "nextlayout", "-o", filepath.Join(dir, "hostport-"+next), "../../cmd/hostport").CombinedOutput()
		if err != nil {
			return fmt.Errorf("build the next version: %w\n%s", err, out)
		}
		return nil
	}))
}

// plugin is the path of a version's plugin.
func plugin(t *testing.T, version string) string {
	t.Helper()
	path := filepath.Join(world.Bin(), "hostport-"+version)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("commit %s is not in this tree's history", version)
	}
	return path
}
