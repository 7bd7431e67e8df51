// Command peak runs a program and writes the most memory that it, or a process
// it waited for, had resident at once, in KiB, to standard error. It has to be
// small itself: the kernel counts the memory of whoever starts a program as
// that program's own.
package main

import (
	"os"
	"strconv"
	"syscall"
)

func main() {
	pid, err := syscall.ForkExec(os.Args[1], os.Args[1:], &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		os.Exit(127)
	}
	var status syscall.WaitStatus
	var used syscall.Rusage
	for {
		if _, err = syscall.Wait4(pid, &status, 0, &used); err != syscall.EINTR {
			break
		}
	}
	_, _ = os.Stderr.WriteString("\npeak " + strconv.FormatInt(used.Maxrss, 10))
	os.Exit(status.ExitStatus())
}
