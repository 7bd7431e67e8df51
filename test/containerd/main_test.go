package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// The test binary runs as three processes, told apart by this variable:
// outside the room (unset) it builds the programs and waits; as the room's
// first process it mounts and reaps; as the third it runs the tests.
const (
	roleKey = "HOSTPORT_ROOM"
	dirKey  = "HOSTPORT_ROOM_DIR"

	roleInit = "init"
	roleNode = "node"
)

func TestMain(m *testing.M) {
	var code int
	var err error
	switch os.Getenv(roleKey) {
	case "":
		code, err = runOutside()
	case roleInit:
		code, err = runInit()
	case roleNode:
		code = m.Run()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "test/containerd: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

// runOutside builds what the room needs, while the network is still there for
// the module proxy, and runs the room. The room is a process namespace of its
// own: when its first process ends, for whatever reason, the kernel ends all
// others and takes mounts and network namespaces along. Only the directory and
// the control groups are left to remove.
func runOutside() (int, error) {
	if err := requireTools(); err != nil {
		return 1, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	dir, err := os.MkdirTemp("", "hostport-containerd-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	defer removeControlGroups(filepath.Base(dir))

	if err := buildPrograms(ctx, dir); err != nil {
		return 1, err
	}

	// Pdeathsig follows the thread that forked, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := roleCommand(ctx, roleInit, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig: syscall.SIGKILL,
	}
	return exitCode(cmd.Run())
}

// runInit is the room's first process. Shims that containerd leaves behind
// when it is killed become its children, so it reaps whatever ends until the
// tests do.
func runInit() (int, error) {
	if err := furnish(); err != nil {
		return 1, err
	}
	cmd := roleCommand(context.Background(), roleNode, os.Getenv(dirKey))
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

func roleCommand(ctx context.Context, role, dir string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleKey+"="+role, dirKey+"="+dir)
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

func requireTools() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("must run as root: it makes namespaces and runs containers")
	}
	for tool, debian := range map[string]string{
		"containerd": "containerd", "containerd-shim-runc-v2": "containerd", "ctr": "containerd",
		"runc": "runc", "ip": "iproute2", "nft": "nftables",
		"iptables": "iptables", "iptables-save": "iptables", "ip6tables-save": "iptables",
	} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing (apt-get install %s): %w", tool, debian, err)
		}
	}
	return nil
}
