package listener

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
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
	processes, _ := filepath.Glob("/proc/[0-9]*")
	slices.SortStableFunc(processes, func(a, b string) int { return cmp.Compare(len(a), len(b)) }) // 9 before 10
	for _, dir := range processes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(missing) == 0 {
			break
		}
		fds, _ := os.ReadDir(dir + "/fd")
		for _, fd := range fds {
			link, _ := os.Readlink(dir + "/fd/" + fd.Name())
			if inode, ok := missing[link]; ok {
				pid, _ := strconv.Atoi(filepath.Base(dir))
				command, _ := os.ReadFile(dir + "/comm")
				found[inode] = holder{pid, strings.TrimSuffix(string(command), "\n")}
				delete(missing, link)
			}
		}
	}
	return found, nil
}
