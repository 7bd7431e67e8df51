package world

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// ErrNoCommit means that a commit is not in the tree's history, as in a release
// tarball or a shallow clone.
var ErrNoCommit = errors.New("not in this tree's history")

// BuildCommit builds the plugin of an earlier commit, as shipped, into binary.
// Call it from the function passed to MainWith, while the working directory is
// that of the test's package and the machine's network is available. The error
// wraps ErrNoCommit if there is no such commit.
func BuildCommit(commit, binary string) error {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", withStderr(err))
	}
	git := func(args ...string) *exec.Cmd {
		return exec.Command("git", append([]string{"-c", "safe.directory=*", "-C", string(bytes.TrimSpace(root))}, args...)...)
	}
	if git("cat-file", "-e", commit+"^{commit}").Run() != nil {
		return fmt.Errorf("commit %s: %w", commit, ErrNoCommit)
	}
	dir, err := os.MkdirTemp("", "hostport-"+filepath.Base(commit)+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	archive, err := git("archive", commit).Output()
	if err != nil {
		return fmt.Errorf("read commit %s: %w", commit, withStderr(err))
	}
	tar := exec.Command("tar", "-x", "-C", dir)
	tar.Stdin = bytes.NewReader(archive)
	if out, err := tar.CombinedOutput(); err != nil {
		return fmt.Errorf("unpack commit %s: %w\n%s", commit, err, out)
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./cmd/hostport")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build commit %s: %w\n%s", commit, err, out)
	}
	return nil
}
