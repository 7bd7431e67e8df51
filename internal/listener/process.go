package listener

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holders reads proc, which is /proc, and returns by socket the process that has it
// open, among those whose file descriptors the caller may read: the lowest process
// ID where several do, so that a master comes before its workers. The key is what
// the kernel calls the socket, "socket:[INODE]". What cannot be read is left out:
// the socket is there all the same.
func holders(proc string) map[string]int {
	out := map[string]int{}
	processes, _ := os.ReadDir(proc)
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(proc, p.Name(), "fd")
		fds, _ := os.ReadDir(dir)
		for _, fd := range fds {
			link, _ := os.Readlink(dir + "/" + fd.Name())
			if other, known := out[link]; strings.HasPrefix(link, "socket:") && (!known || pid < other) {
				out[link] = pid
			}
		}
	}
	return out
}

// command returns the name of a process, or "" if there is none.
func command(pid int) string {
	comm, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	return strings.TrimSuffix(string(comm), "\n")
}
