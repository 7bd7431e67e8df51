package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"github.com/hostport-cni/hostport/test/world"
)

// roleKey tells the processes of a test run apart. Without it the test binary
// builds the programs, takes mounts and a network of its own (test/world) and
// starts a machine: a process namespace whose first process reaps, and whose
// second runs the tests.
const (
	roleKey  = "HOSTPORT_ROLE"
	roleInit = "init"
	roleNode = "node"
)

func TestMain(m *testing.M) {
	var code int
	var err error
	switch {
	case os.Getenv(roleKey) == roleNode || world.Bin() == "":
		code = world.MainWith(m, buildPrograms)
	case os.Getenv(roleKey) == roleInit:
		code, err = runInit()
	default:
		code, err = runMachine()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "test/containerd: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

// runMachine runs the tests in a process namespace: when its first process ends,
// for whatever reason, the kernel ends all others. Only the control groups are
// left to remove.
func runMachine() (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	group := fmt.Sprintf("hostport-containerd-%d", os.Getpid())
	if err := os.Setenv(groupKey, group); err != nil {
		return 1, err
	}
	defer removeControlGroups(group)

	// Pdeathsig follows the thread that forked, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := roleCommand(ctx, roleInit)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	return exitCode(cmd.Run())
}

// runInit is the first process. Shims that containerd leaves behind when it is
// killed become its children, so it reaps whatever ends until the tests do.
func runInit() (int, error) {
	if err := mountOwn(); err != nil {
		return 1, err
	}
	cmd := roleCommand(context.Background(), roleNode)
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 1, fmt.Errorf("wait: %w", err)
		case pid == cmd.Process.Pid && status.Exited():
			return status.ExitStatus(), nil
		case pid == cmd.Process.Pid:
			return 1, fmt.Errorf("tests ended by %v", status.Signal())
		}
	}
}

// mountOwn gives the process namespace its /proc, and an empty /var/lib: images,
// sandboxes and libcni's cache live there and vanish with it. /run is the
// World's.
func mountOwn() error {
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/var/lib", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /var/lib: %w", err)
	}
	return nil
}

func roleCommand(ctx context.Context, role string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleKey+"="+role)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
