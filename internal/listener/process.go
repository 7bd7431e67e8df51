package listener

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// holder is a process that has a socket open.
type holder struct {
	pid     int
	command string
}

// holders finds a process for each socket among the file descriptors of all
// processes that the caller may read; the lowest process ID where several hold
// one. It stops when all are found. What cannot be read is left out: the socket
// is there all the same.
func holders(ctx context.Context, sockets []socket) (map[uint32]holder, error) {
	missing := make(map[string]uint32, len(sockets))
	for _, s := range sockets {
		missing[fmt.Sprintf("socket:[%d]", s.inode)] = s.inode
	}
	found := make(map[uint32]holder, len(missing))
	for _, pid := range processes() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(missing) == 0 {
			break
		}
		dir := "/proc/" + strconv.Itoa(pid) + "/fd"
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			link, err := os.Readlink(dir + "/" + fd.Name())
			if err != nil {
				continue
			}
			if inode, ok := missing[link]; ok {
				found[inode] = holder{pid, command(pid)}
				delete(missing, link)
			}
		}
	}
	return found, nil
}

// processes are the IDs of all processes, in order.
func processes() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()
	names, _ := dir.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

func command(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}
