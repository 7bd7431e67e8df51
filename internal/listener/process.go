package listener

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// process is a process with an open socket, by its ID and name.
type process struct {
	pid     int
	command string
}

// holders reads proc, which is /proc, and returns the process that has each
// socket open, among the processes whose file descriptors the caller may read:
// the lowest process ID if there are several, so that a master comes before its
// workers. The key is the kernel's name of the socket, "socket:[INODE]".
// Processes that cannot be read are omitted: the socket is reported all the
// same. So are processes that have exited meanwhile, such as a child of the
// listener that has not yet executed another program.
func holders(proc string) map[string]process {
	out := map[string]process{}
	fds, _ := filepath.Glob(filepath.Join(proc, "[0-9]*/fd/*"))
	for _, fd := range fds {
		dir := filepath.Dir(filepath.Dir(fd))
		pid, _ := strconv.Atoi(filepath.Base(dir))
		link, _ := os.Readlink(fd)
		if other, known := out[link]; !strings.HasPrefix(link, "socket:") || known && other.pid < pid {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		if command := strings.TrimSuffix(string(comm), "\n"); command != "" {
			out[link] = process{pid, command}
		}
	}
	return out
}
