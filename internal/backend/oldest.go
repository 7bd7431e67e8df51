package backend

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// The oldest versions on which the tests pass, see docs/compatibility.md. Older
// ones may work, and are not refused.
const (
	oldestMajor, oldestMinor = 5, 10

	// OldestIptables is N in version 1.8.N.
	OldestIptables = 7
)

// OldKernel returns advice if the running kernel is older than the oldest on which
// the tests pass, else "".
func OldKernel() string {
	var u unix.Utsname
	_ = unix.Uname(&u) // cannot fail
	return oldKernel(unix.ByteSliceToString(u.Release[:]))
}

func oldKernel(release string) string {
	var major, minor int
	_, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	if err != nil || major > oldestMajor || major == oldestMajor && minor >= oldestMinor { // or it is not a version
		return ""
	}
	return fmt.Sprintf("Linux %s is older than %d.%d, the oldest that hostport is tested on", release, oldestMajor, oldestMinor)
}
