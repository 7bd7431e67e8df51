package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/hostport-cni/hostport/test/world"
)

const (
	// groupKey names the control group below which everything runs.
	groupKey = "HOSTPORT_GROUP"
	// newestKey is the directory of the containerd that the tests build, trixieKey
	// that of Debian trixie's.
	newestKey = "HOSTPORT_CONTAINERD"
	trixieKey = "HOSTPORT_CONTAINERD_TRIXIE"
)

// reference are the CNI plugins that stand in the chains beside those of the
// World; go.mod pins their version.
var reference = []string{
	"github.com/containernetworking/plugins/plugins/meta/firewall",
	"github.com/containernetworking/plugins/plugins/meta/sbr",
	"github.com/containernetworking/plugins/plugins/meta/tuning",
}

func program(name string) string { return filepath.Join(world.Bin(), name) }

// buildPrograms adds to the World's programs what the tests run: plugins, the
// pods' program and its image, and further versions of containerd.
func buildPrograms(dir string) error {
	if err := requireTools(); err != nil {
		return err
	}
	if err := goBuild(append([]string{"-o", dir}, reference...)...); err != nil {
		return err
	}
	peer := filepath.Join(dir, "peer")
	// The peer runs in an image without a C library.
	if err := goBuild("-ldflags=-s -w", "-o", peer, "./peer"); err != nil {
		return err
	}
	if err := writeImage(filepath.Join(dir, "image.tar"), peer); err != nil {
		return err
	}
	return errors.Join(findContainerd(newestKey), findContainerd(trixieKey, "trixie"))
}

func goBuild(args ...string) error {
	if out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// findContainerd builds or fetches a containerd, unless it is there.
func findContainerd(key string, args ...string) error {
	cmd := exec.Command("../containerd.sh", args...)
	cmd.Stderr = os.Stderr
	dir, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("find containerd %v: %w", args, err)
	}
	return os.Setenv(key, strings.TrimSpace(string(dir)))
}

func requireTools() error {
	for tool, debian := range map[string]string{
		"containerd": "containerd", "containerd-shim-runc-v2": "containerd", "ctr": "containerd",
		"runc": "runc", "podman": "podman", "conmon": "conmon",
	} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing (apt-get install %s): %w", tool, debian, err)
		}
	}
	return nil
}

// removeControlGroups removes the empty control groups of the tests, which no
// namespace takes along. It covers one hierarchy (version 2) and one for each
// controller (version 1).
func removeControlGroups(name string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	for _, root := range append(roots, "/sys/fs/cgroup/"+name) {
		var groups []string
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				groups = append(groups, path)
			}
			return err
		})
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		// A group goes only when those below it are gone.
		for _, group := range slices.Backward(groups) {
			if err := syscall.Rmdir(group); err != nil {
				fmt.Fprintf(os.Stderr, "test/containerd: remove control group %s: %v\n", group, err)
			}
		}
	}
}
