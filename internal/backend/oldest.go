package backend

import (
	"fmt"
	"strconv"
	"strings"

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
	if unix.Uname(&u) != nil {
		return ""
	}
	return oldKernel(unix.ByteSliceToString(u.Release[:]))
}

func oldKernel(release string) string {
	first, rest, _ := strings.Cut(release, ".")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	major, err := strconv.Atoi(first)
	if err != nil {
		return "" // not a version
	}
	minor, err := strconv.Atoi(rest[:end])
	if err != nil || major > oldestMajor || major == oldestMajor && minor >= oldestMinor {
		return ""
	}
	return fmt.Sprintf("Linux %s is older than %d.%d, the oldest that hostport is tested on", release, oldestMajor, oldestMinor)
}
