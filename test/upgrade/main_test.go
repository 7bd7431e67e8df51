// Package upgrade runs two versions of the plugin on one node, one after the
// other: versions of the past, built from the repository's history, and the
// next one, which is this one with another layout of the rules.
package upgrade

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

// past are commits before which the rules or the state had another form: the
// last with 256 ports in a chain, and the last that stored the names of chains.
var past = []string{"c97ecc5", "bada6ac"}

// next is the name of the plugin of another layout.
const next = "next"

func TestMain(m *testing.M) {
	os.Exit(world.MainWith(m, func(dir string) error {
		for _, commit := range past {
			if err := buildCommit(commit, filepath.Join(dir, "hostport-"+commit)); err != nil {
				return err
			}
		}
		return run("../..", "go", "build", "-tags", "nextlayout", "-o", filepath.Join(dir, "hostport-"+next), "./cmd/hostport")
	}))
}

// buildCommit builds the plugin of a commit. A tree without that commit, such as
// a release tarball, makes none.
func buildCommit(commit, binary string) error {
	git := func(args ...string) *exec.Cmd {
		return exec.Command("git", append([]string{"-c", "safe.directory=*", "-C", "../.."}, args...)...)
	}
	if git("cat-file", "-e", commit+"^{commit}").Run() != nil {
		return nil
	}
	dir, err := os.MkdirTemp("", "hostport-"+commit+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	archive, err := git("archive", commit).Output()
	if err != nil {
		return fmt.Errorf("read commit %s: %w", commit, err)
	}
	tar := exec.Command("tar", "-x", "-C", dir)
	tar.Stdin = bytes.NewReader(archive)
	if out, err := tar.CombinedOutput(); err != nil {
		return fmt.Errorf("unpack commit %s: %w\n%s", commit, err, out)
	}
	return run(dir, "go", "build", "-buildvcs=false", "-o", binary, "./cmd/hostport")
}

func run(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
	}
	return nil
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
