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
	processes, _ := os.ReadDir(proc)
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(proc, p.Name(), "fd")
		fds, _ := os.ReadDir(dir)
		var sockets []string
		for _, fd := range fds {
			link, _ := os.Readlink(dir + "/" + fd.Name())
			if other, known := out[link]; strings.HasPrefix(link, "socket:") && (!known || pid < other.pid) {
				sockets = append(sockets, link)
			}
		}
		if len(sockets) == 0 {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join(proc, p.Name(), "comm"))
		if command := strings.TrimSuffix(string(comm), "\n"); command != "" {
			for _, link := range sockets {
				out[link] = process{pid, command}
			}
		}
	}
	return out
}
