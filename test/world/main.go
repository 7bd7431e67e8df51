package world

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// binDirVariable names the directory with the plugin binaries. Its presence
// marks the re-executed test process.
const binDirVariable = "HOSTPORT_WORLD_BIN"

// pluginsVariable names a directory that BuildPlugins has filled, or a run with
// BuildVariable, for machines without a compiler.
const pluginsVariable = "HOSTPORT_WORLD_PLUGINS"

// BuildVariable names a directory into which a test program puts everything
// that it would build, and then exits.
const BuildVariable = "HOSTPORT_WORLD_BUILD"

// private holds all files of the tests. It is in memory, like the plugin's
// state directory on a node, and is gone with the process.
const private = "/run/world"

const module = "github.com/hostport-cni/hostport"

// pinnedPlugins holds the plugins of other projects, at the version that go.mod
// pins as tools.
var pinnedPlugins = []string{"bridge", "ptp", "host-local", "loopback", "portmap"}

// Main runs the tests of m in a process that owns its network and mount
// namespaces, and returns the exit code. The plugins are built before the
// process leaves the machine's network.
//
// It re-executes the test binary in place: the process keeps its ID, its
// arguments and its working directory.
func Main(m *testing.M) int { return MainWith(m, func(string) error { return nil }) }

// MainWith is like Main for tests that need more programs: more puts them into
// a directory, which is then Bin.
func MainWith(m *testing.M, more func(dir string) error) int {
	if _, inside := os.LookupEnv(binDirVariable); inside {
		return m.Run()
	}
	if dir := os.Getenv(BuildVariable); dir != "" {
		if err := errors.Join(BuildPlugins(dir), more(dir)); err != nil {
			fmt.Fprintln(os.Stderr, "world:", err)
			return 1
		}
		return 0
	}
	if err := enter(more); err != nil {
		fmt.Fprintln(os.Stderr, "world:", err)
		return 1
	}
	return 1 // not reached: enter ends with exec
}

// enter builds the plugins, enters new namespaces and re-executes this binary
// inside them. It returns only on failure.
func enter(more func(dir string) error) error {
	if os.Geteuid() != 0 {
		return errors.New("these tests make network namespaces: run them as root")
	}
	var missing []string
	for _, tool := range []string{variantNFT.binary(), variantLegacy.binary(), program("nft")} {
		if _, err := os.Stat(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not installed: %s (Debian packages iptables and nftables)", strings.Join(missing, ", "))
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "hostport-world-")
	if err != nil {
		return err
	}
	if built := os.Getenv(pluginsVariable); built != "" {
		err = os.CopyFS(dir, os.DirFS(built))
	} else if err = BuildPlugins(dir); err == nil {
		err = more(dir)
	}
	if err == nil {
		// Namespaces belong to a thread, and exec makes the calling thread the
		// process.
		runtime.LockOSThread()
		err = isolate(dir)
	}
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		return err
	}
	env := append(os.Environ(), binDirVariable+"="+filepath.Join(private, "bin"), "TMPDIR="+private)
	return fmt.Errorf("start %s again: %w", self, unix.Exec(self, os.Args, env))
}

// isolate gives the calling thread its own network, and mounts that no other
// process sees. /run is empty as well, so the lock of iptables-legacy and every
// default path of a plugin are private to the process. The plugins in built
// move there, and so do the tests' temporary directories.
func isolate(built string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("world", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount a private /run: %w", err)
	}
	return os.CopyFS(filepath.Join(private, "bin"), os.DirFS(built))
}

// BuildPlugins builds every plugin, and the operator's tool, into dir. The
// pinned plugins come from the build cache, where `go tool` keeps them between
// runs. Everything is built in the product's module, with its pinned versions,
// also for tests of another module.
func BuildPlugins(dir string) error {
	// As shipped: a dynamically linked program starts slower.
	if err := os.Setenv("CGO_ENABLED", "0"); err != nil {
		return err
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return fmt.Errorf("find module %s: %w", module, withStderr(err))
	}
	goTool := func(args ...string) *exec.Cmd {
		return exec.Command("go", append([]string{args[0], "-C", strings.TrimSpace(string(root))}, args[1:]...)...)
	}
	for _, name := range pinnedPlugins {
		out, err := goTool("tool", "-n", name).Output()
		if err != nil {
			return fmt.Errorf("build plugin %s: %w", name, withStderr(err))
		}
		if err := os.Symlink(strings.TrimSpace(string(out)), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	out, err := goTool("build", "-trimpath", "-ldflags", "-s -w", "-o", dir+string(filepath.Separator),
		module+"/cmd/hostport", module+"/cmd/hostportctl").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build hostport and hostportctl: %w\n%s", err, out)
	}
	return nil
}

// Bin is the directory with the programs that were built for the tests.
func Bin() string { return os.Getenv(binDirVariable) }

// Build compiles a program of this module, for tests that need more than the
// plugin as shipped: build tags, or the operator's tool. It returns the
// binary's path; UsePlugin puts it in the plugin's place.
func Build(t testing.TB, importPath string, flags ...string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), filepath.Base(importPath))
	args := append([]string{"build", "-o", binary}, flags...)
	out, err := exec.Command("go", append(args, importPath)...).CombinedOutput()
	if err != nil {
		t.Fatalf("build %s: %v\n%s", importPath, err, out)
	}
	return binary
}

// withStderr adds what a failed command wrote to stderr.
func withStderr(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("%w\n%s", err, exit.Stderr)
	}
	return err
}
