// Command peak runs a program and writes the peak resident memory, in KiB, of
// the program or of a process that it waited for to standard error. peak has to
// be small itself: the kernel counts the memory of the process that starts a
// program as the program's own.
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
