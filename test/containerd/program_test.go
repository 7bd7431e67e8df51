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
	// newestKey is the directory of the containerd that the tests build.
	newestKey = "HOSTPORT_CONTAINERD"

	// newestModule and newestVersion are that containerd.
	newestModule  = "github.com/containerd/containerd/v2"
	newestVersion = "v2.4.2"
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
// pods' program and its image, and the newest containerd.
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
	return buildNewest()
}

func goBuild(args ...string) error {
	if out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// buildNewest builds containerd, its shim and ctr from the module, once for each
// version: it takes minutes. The checksum database vouches for the module.
func buildNewest() error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	dir := filepath.Join(cache, "hostport", "containerd-"+newestVersion)
	if err := os.Setenv(newestKey, dir); err != nil {
		return err
	}
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	fmt.Fprintf(os.Stderr, "test/containerd: building containerd %s, which takes minutes\n", newestVersion)
	building, err := os.MkdirTemp(filepath.Join(cache), "hostport-building-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(building)
	args := []string{"install", "-ldflags=-s -w"}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
		args = append(args, newestModule+"/cmd/"+name+"@"+newestVersion)
	}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "GOBIN="+building)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build containerd %s: %w\n%s", newestVersion, err, out)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	return os.Rename(building, dir)
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
