package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// pluginType names the plugin in conflists and in the plugin directory.
const pluginType = "hostport"

// reference are the CNI plugins that stand before and behind the plugin in its
// chains; go.mod pins their version. The plugin itself is built in the
// product's module, with what that one pins.
var reference = []string{
	"github.com/containernetworking/plugins/plugins/main/bridge",
	"github.com/containernetworking/plugins/plugins/main/loopback",
	"github.com/containernetworking/plugins/plugins/meta/firewall",
	"github.com/containernetworking/plugins/plugins/meta/sbr",
	"github.com/containernetworking/plugins/plugins/meta/tuning",
	"github.com/containernetworking/plugins/plugins/ipam/host-local",
}

func binDir() string     { return filepath.Join(os.Getenv(dirKey), "bin") }
func peerPath() string   { return filepath.Join(os.Getenv(dirKey), "peer") }
func imagePath() string  { return filepath.Join(os.Getenv(dirKey), "image.tar") }
func groupName() string  { return filepath.Base(os.Getenv(dirKey)) }
func repository() string { return filepath.Join("..", "..") }

// buildPrograms fills dir with bin/ (the plugins), peer and image.tar.
func buildPrograms(ctx context.Context, dir string) error {
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	if err := build(ctx, repository(), "-o", bin, "./cmd/hostport"); err != nil {
		return err
	}
	if err := build(ctx, ".", append([]string{"-o", bin}, reference...)...); err != nil {
		return err
	}
	peer := filepath.Join(dir, "peer")
	if err := build(ctx, ".", "-ldflags=-s -w", "-o", peer, "./peer"); err != nil {
		return err
	}
	return writeImage(filepath.Join(dir, "image.tar"), peer)
}

func build(ctx context.Context, module string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build"}, args...)...)
	cmd.Dir = module
	// The peer runs in an image without a C library.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// furnish makes the room's file system private and gives it what a booted
// machine has: its own /proc, an empty /run and /var/lib, and a loopback link.
// Network namespaces, sockets, images, the plugin's state and libcni's cache
// all live under those two and vanish with the room.
func furnish() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, dir := range []string{"/run", "/var/lib"} {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("set lo up: %w: %s", err, out)
	}
	return nil
}

// removeControlGroups removes the room's empty control groups, which no
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
