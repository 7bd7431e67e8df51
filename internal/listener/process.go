package listener

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// process is one that has a socket open, by its ID and name.
type process struct {
	pid     int
	command string
}

// holders reads proc, which is /proc, and returns by socket the process that has it
// open, among those whose file descriptors the caller may read: the lowest process
// ID where several do, so that a master comes before its workers. The key is what
// the kernel calls the socket, "socket:[INODE]". What cannot be read is left out:
// the socket is there all the same. So is a process that ended meanwhile, such as a
// child of the listener's on its way to another program.
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
