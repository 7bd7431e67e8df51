package listener

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holder finds a process that has a socket open, among the file descriptors of all
// processes that the caller may read. What cannot be read is left out: the socket
// is there all the same.
func holder(inode uint32) (pid int, command string) {
	socket := fmt.Sprintf("socket:[%d]", inode)
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		fds, _ := os.ReadDir(dir + "/fd")
		for _, fd := range fds {
			if link, _ := os.Readlink(dir + "/fd/" + fd.Name()); link == socket {
				pid, _ = strconv.Atoi(filepath.Base(dir))
				comm, _ := os.ReadFile(dir + "/comm")
				return pid, strings.TrimSuffix(string(comm), "\n")
			}
		}
	}
	return 0, ""
}
