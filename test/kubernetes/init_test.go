package kubernetes

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The node's first process is this test binary, started again in PID and mount
// namespaces of its own. It is what a machine is to its processes: when it
// ends, for whatever reason, the kernel ends every process of the node, and
// with them their mounts and network namespaces.
const (
	initVariable = "HOSTPORT_TEST_NODE_INIT" // set: be the first process; its value: the folder of the binaries

	nodeBin  = "/var/lib/node/bin" // the binaries, as the node sees them
	nodeCNI  = "/var/lib/node/cni" // plugins and net.d
	bootID   = "/var/lib/node/boot_id"
	initOK   = "ok"
	initBoot = "reboot"
)

// kernelSettings is what kubelet would write into the machine's kernel. The node gets
// files of its own in their place.
var kernelSettings = map[string]string{
	"/proc/sys/vm/overcommit_memory":      "1",
	"/proc/sys/vm/panic_on_oom":           "0",
	"/proc/sys/kernel/panic":              "10",
	"/proc/sys/kernel/panic_on_oops":      "1",
	"/proc/sys/kernel/keys/root_maxkeys":  "1000000",
	"/proc/sys/kernel/keys/root_maxbytes": "25000000",
}

// beInit prepares the node's mounts, then obeys standard input until it closes.
func beInit(binaries string) error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM) // an interrupt goes to the whole group; the test decides
	if err := mountNode(binaries); err != nil {
		return err
	}
	go reap()
	fmt.Println(initOK)
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		if orders.Text() != initBoot {
			return fmt.Errorf("unknown order %q", orders.Text())
		}
		if err := emptyNode(); err != nil {
			return err
		}
		fmt.Println(initOK)
	}
	return orders.Err()
}

func mountNode(binaries string) error {
	folder, err := os.Open(binaries) // it may lie under a path that is covered next
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, path := range []string{"/run", "/var/lib", "/var/log"} {
		if err := unix.Mount("tmpfs", path, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", path, err)
		}
	}
	for _, path := range []string{nodeBin, nodeCNI + "/net.d"} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	if err := bind(fmt.Sprintf("/proc/self/fd/%d", folder.Fd()), nodeBin); err != nil {
		return err
	}
	for path, value := range kernelSettings {
		if err := replaceFile(path, "/var/lib/node/"+filepath.Base(path), value); err != nil {
			return err
		}
	}
	return replaceFile("/proc/sys/kernel/random/boot_id", bootID, newBootID())
}

func replaceFile(path, by, content string) error {
	if err := os.WriteFile(by, []byte(content+"\n"), 0o644); err != nil {
		return err
	}
	return bind(by, path)
}

func bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", source, target, err)
	}
	return nil
}

// emptyNode leaves what a reboot leaves: files on disk, and nothing else.
func emptyNode() error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		// -1 is every process of this PID namespace but the caller.
		if err := unix.Kill(-1, unix.SIGKILL); errors.Is(err, unix.ESRCH) {
			break
		} else if err != nil {
			return fmt.Errorf("kill all processes: %w", err)
		}
		if time.Now().After(deadline) {
			return errors.New("processes of the node do not end")
		}
		time.Sleep(20 * time.Millisecond)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(mounts)), "\n")
	for i := len(lines) - 1; i >= 0; i-- { // the last mounted first
		path := strings.Fields(lines[i])[1]
		if path == "/run" || underAny(path, "/run", "/var/lib/kubelet", "/var/lib/containerd") {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", path, err)
			}
		}
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on /run: %w", err)
	}
	return os.WriteFile(bootID, []byte(newBootID()+"\n"), 0o644)
}

func underAny(path string, folders ...string) bool {
	for _, folder := range folders {
		if strings.HasPrefix(path, folder+"/") {
			return true
		}
	}
	return false
}

func newBootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		panic(err) // every Linux has it
	}
	return strings.TrimSpace(string(id))
}

// reap buries the node's orphans: what containerd's shims leave behind.
func reap() {
	for {
		_, err := unix.Wait4(-1, nil, 0, nil)
		if errors.Is(err, unix.ECHILD) {
			time.Sleep(50 * time.Millisecond)
		}
	}
}
