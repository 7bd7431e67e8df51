//go:build faultpoints

package fault

import (
	"os"
	"syscall"
)

// Point kills the process, as SIGKILL would, when HOSTPORT_FAULT names it: no
// deferred function runs and nothing is flushed.
func Point(name string) {
	if os.Getenv("HOSTPORT_FAULT") == name {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
