package kubernetes

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// node is a machine made of namespaces, and the world outside of it.
type node struct {
	families []family
	outside  *netns
	network  *netns // another one after each boot
	logs     string // a folder of the machine that runs the test

	init    *exec.Cmd
	orders  io.WriteCloser
	replies *bufio.Scanner
	cgroup  *cgroup

	daemons map[string]*daemon
}

// daemon is a process that runs until it is killed.
type daemon struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

func newNode(logs string, families []family) (*node, error) {
	n := &node{families: families, logs: logs, daemons: map[string]*daemon{}}
	err := n.start()
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *node) start() error {
	var err error
	if n.cgroup, err = newCgroup(filepath.Base(n.logs)); err != nil {
		return err
	}
	if n.outside, err = newNetns(); err != nil {
		return err
	}
	if err := n.plug(); err != nil {
		return err
	}
	n.init = exec.Command("/proc/self/exe")
	n.init.Env = append(os.Environ(), initVariable+"="+binaryFolder)
	n.init.Stderr = os.Stderr
	n.init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	// The pipe is the node's lifeline: it closes when the test ends, however it ends.
	if n.orders, err = n.init.StdinPipe(); err != nil {
		return err
	}
	replies, err := n.init.StdoutPipe()
	if err != nil {
		return err
	}
	n.replies = bufio.NewScanner(replies)
	// In the node's network of its first boot, as what is started later.
	if err := n.network.do(n.init.Start); err != nil {
		return fmt.Errorf("start the node's first process: %w", err)
	}
	return n.confirm()
}

// plug gives the node a new network stack, linked to the outside.
func (n *node) plug() error {
	var err error
	if n.network, err = newNetns(); err != nil {
		return err
	}
	if err := connect(n.network, "eth0", n.outside, "node"); err != nil {
		return err
	}
	for _, f := range n.families {
		if err := n.network.address("eth0", f.node); err != nil {
			return err
		}
		if err := n.outside.address("node", f.outside); err != nil {
			return err
		}
		if err := n.network.routeDefault(f.outside.Addr()); err != nil {
			return err
		}
		if err := n.network.do(func() error { return os.WriteFile(f.forwarding, []byte("1"), 0o644) }); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) confirm() error {
	if !n.replies.Scan() || n.replies.Text() != initOK {
		return fmt.Errorf("the node's first process failed: %q, %v", n.replies.Text(), n.replies.Err())
	}
	return nil
}

// reboot ends all processes, and starts none: /run is empty, the boot ID and
// the network stack are new, the kernel knows no rule and no link of before.
func (n *node) reboot() error {
	if _, err := io.WriteString(n.orders, initBoot+"\n"); err != nil {
		return err
	}
	if err := n.confirm(); err != nil {
		return err
	}
	for name, d := range n.daemons {
		<-d.exited
		delete(n.daemons, name)
	}
	// Of the old stack's end of the wire, the kernel removes the outer end too,
	// but some time later: ask for it, so that its name is free.
	if err := n.outside.do(func() error { return removeLink("node") }); err != nil {
		return err
	}
	n.network.close()
	return n.plug()
}

func (n *node) close() {
	if n.init != nil && n.init.Process != nil {
		_ = n.orders.Close()
		_ = n.init.Process.Kill()
		_ = n.init.Wait()
	}
	for _, d := range n.daemons {
		<-d.exited
	}
	for _, ns := range []*netns{n.network, n.outside} {
		if ns != nil {
			ns.close()
		}
	}
	if n.cgroup != nil {
		n.cgroup.remove()
	}
}

// launch starts a program as a process of the node. Every namespace is entered
// before the fork, so that the child is the program itself and ours to wait for.
func (n *node) launch(cmd *exec.Cmd) error {
	cmd.Dir = "/"
	cmd.Env = []string{
		"HOME=/root",
		"PATH=" + nodeBin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	return n.network.do(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil { // or the kernel refuses the mount namespace
			return err
		}
		if err := enter(n.init.Process.Pid, "pid", unix.CLONE_NEWPID); err != nil {
			return err
		}
		// Last: /proc is another one from here on.
		if err := enter(n.init.Process.Pid, "mnt", unix.CLONE_NEWNS); err != nil {
			return err
		}
		return cmd.Start()
	})
}

func enter(pid int, kind string, flag int) error {
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), flag); err != nil {
		return fmt.Errorf("enter the node's %s namespace: %w", kind, err)
	}
	return nil
}

// program returns the path of a program, built here or the machine's own, unless
// name is one.
func program(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	if _, err := os.Stat(filepath.Join(binaryFolder, name)); err == nil {
		return filepath.Join(nodeBin, name), nil
	}
	return exec.LookPath(name)
}

// command runs a program of the node to its end, and returns what it printed.
func (n *node) command(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	path, err := program(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := n.launch(cmd); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if err := cmd.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// file returns the path by which the test sees a file of the node.
func (n *node) file(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", n.init.Process.Pid, path)
}

// daemon starts a program that stays, with its log in the test's folder.
func (n *node) daemon(name string, args ...string) error {
	path, err := program(name)
	if err != nil {
		return err
	}
	name = filepath.Base(name)
	log, err := os.OpenFile(filepath.Join(n.logs, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := n.launch(cmd); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	d := &daemon{cmd: cmd, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(d.exited)
	}()
	n.daemons[name] = d
	return nil
}

// kill ends one daemon and leaves its children alone, as a crash would.
func (n *node) kill(name string) error {
	d, ok := n.daemons[name]
	if !ok {
		return fmt.Errorf("%s does not run", name)
	}
	delete(n.daemons, name)
	if err := d.cmd.Process.Kill(); err != nil {
		return err
	}
	<-d.exited
	return nil
}
