// Package host moves a program from its container to the host, whose PID
// namespace the container shares: the program re-executes itself in the mount
// namespace of the host's first process. It starts nothing else and mounts
// nothing.
package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// The agent and hostportctl have to start the iptables of the host, whose variant
// and version are the plugin's, to see the sandboxes that are mounted there, and to
// find libcni's cache, the state and the runtime's directories where the plugin
// finds them. An image with no programs but our own has none of that. So a program
// in a container that shares the host's PID namespace re-executes itself in the
// mount namespace of process 1. That takes one system call, whereas a mount of the
// host's root would lack whatever the host mounts later with other propagation, and
// internal/sandbox could not distinguish it from the host.
//
// The program itself is executed from a file descriptor, because the host has
// no path to it, and the container's root stays open for what exists only
// there: the programs to install and the service account. The container's mount
// namespace stays open as well: when the last process leaves it, the kernel
// unmounts everything in it, and only the root would be left.

// Environment variables for the re-executed program: the descriptors of the
// container's root and mount namespace, and the directory of the program in it.
const (
	rootVariable      = "HOSTPORT_CONTAINER_ROOT"
	namespaceVariable = "HOSTPORT_CONTAINER_NAMESPACE"
	programsVariable  = "HOSTPORT_CONTAINER_PROGRAMS"
)

// Home is where a program came from.
type Home struct {
	// Root is the root of the container, "/" if it did not come from one.
	Root string
	// Programs is the directory of the program, in Root.
	Programs string
}

// Path returns the path of a file of the container.
func (h Home) Path(name string) string { return filepath.Join(h.Root, name) }

// procRoot is the only accepted form of a host's root: that of a process in the
// host's mount namespace.
var procRoot = regexp.MustCompile(`^/proc/([0-9]+)/root/?$`)

// ErrInside is returned if the mount namespace to enter is the program's own.
var ErrInside = errors.New("it is the agent's own: the container needs the host's PID namespace (hostPID), and a host needs no --host-root")

// Enter re-executes the program in the mount namespace of the process whose
// root is hostRoot. In the re-executed program it returns the location of the
// container's files. With hostRoot "" the program is already in the host's
// root.
func Enter(hostRoot string, args []string) (Home, error) {
	if os.Getenv(rootVariable) != "" {
		return entered()
	}
	self, err := os.Executable()
	if err != nil {
		return Home{}, err
	}
	h := Home{"/", filepath.Dir(self)}
	if hostRoot == "" {
		return h, nil
	}
	m := procRoot.FindStringSubmatch(hostRoot)
	if m == nil {
		return Home{}, errors.New("want /proc/PID/root of a process of the host, such as /proc/1/root: " +
			"sandboxes and programs of the host are seen from its own mount namespace alone")
	}
	if err := host(m[1]); err != nil {
		return Home{}, err
	}
	return Home{}, h.again("/proc/"+m[1]+"/ns/mnt", args)
}

// host returns an error if the process with that ID cannot belong to the host:
// it has the mounts of this container, or process 1 has another network.
func host(pid string) error {
	is := func(kind string) (there, here unix.Stat_t, err error) {
		err = errors.Join(unix.Stat("/proc/"+pid+"/ns/"+kind, &there), unix.Stat("/proc/self/ns/"+kind, &here))
		return there, here, err
	}
	there, here, err := is("mnt")
	if err != nil {
		return fmt.Errorf("%w (the container needs the host's PID namespace and the capability SYS_PTRACE)", err)
	}
	if there.Ino == here.Ino {
		return ErrInside
	}
	if there, here, err = is("net"); err == nil && pid == "1" && there.Ino != here.Ino {
		err = errors.New("the container needs the host's network (hostNetwork)")
	}
	return err
}

// entered returns where the program was before it was re-executed.
func entered() (Home, error) {
	h := Home{Programs: os.Getenv(programsVariable)}
	for _, variable := range []string{rootVariable, namespaceVariable} {
		fd, err := strconv.Atoi(os.Getenv(variable))
		if err != nil {
			return Home{}, fmt.Errorf("%s=%q: not a descriptor", variable, os.Getenv(variable))
		}
		unix.CloseOnExec(fd) // do not pass it to programs that we start
		if variable == rootVariable {
			h.Root = fmt.Sprintf("/proc/self/fd/%d", fd)
		}
	}
	return h, errors.Join(os.Unsetenv(rootVariable), os.Unsetenv(namespaceVariable), os.Unsetenv(programsVariable))
}

// again replaces the process by one that runs the same program in another mount
// namespace. It returns only on failure.
func (h Home) again(namespace string, args []string) error {
	self, err := unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the own program: %w", err)
	}
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open the container's root: %w", err)
	}
	own, err := unix.Open("/proc/self/ns/mnt", unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open the container's mount namespace: %w", err)
	}
	ns, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%w (the container needs the host's PID namespace and the capability SYS_PTRACE)", err)
	}
	// Threads share a root and a working directory, and the kernel lets a thread
	// enter only if it does not share them. exec then makes this thread the
	// process.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("%w (the container needs the capabilities SYS_ADMIN and SYS_CHROOT)", err)
	}
	env := append(os.Environ(), fmt.Sprintf("%s=%d", rootVariable, root), fmt.Sprintf("%s=%d", namespaceVariable, own),
		programsVariable+"="+h.Programs)
	return fmt.Errorf("start again: %w", unix.Exec(fmt.Sprintf("/proc/self/fd/%d", self), args, env))
}
