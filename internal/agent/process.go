package agent

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// process is the process that made a change, as far as it is known.
type process struct {
	pid    int
	name   string
	parent string
}

// String returns, for example, "nft (PID 4711), started by reload.sh".
func (p process) String() string {
	if p.name == "" {
		return "an unknown process"
	}
	s := p.name
	if p.pid != 0 {
		s += fmt.Sprintf(" (PID %d)", p.pid)
	}
	if p.parent != "" {
		s += ", started by " + p.parent
	}
	return s
}

// look finds out what it can about the thread that made a commit. The thread
// may have exited.
func look(tid uint32, name string) process {
	p := process{pid: int(tid), name: name}
	pid, parent, ok := status(strconv.Itoa(int(tid)))
	if !ok {
		return p
	}
	p.pid = pid
	if parent != 0 {
		p.parent = comm(parent)
	}
	return p
}

// status returns the process of a thread, and the parent of that process.
func status(tid string) (pid, parent int, ok bool) {
	b, err := os.ReadFile("/proc/" + tid + "/status")
	if err != nil {
		return 0, 0, false
	}
	for line := range bytes.Lines(b) {
		key, value, _ := strings.Cut(string(line), ":")
		n, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil {
			continue
		}
		switch key {
		case "Tgid":
			pid = n
		case "PPid":
			parent = n
		}
	}
	return pid, parent, pid != 0
}

func comm(pid int) string {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm") // it may have exited
	return strings.TrimSpace(string(b))
}

// ours reports whether one of our programs made a change, itself or through a
// tool that it started. A tool that has exited does not count as ours.
func (p process) ours() bool {
	programs := []string{"hostport", "hostportctl", "hostport-agent"}
	return slices.Contains(programs, p.name) || slices.Contains(programs, p.parent)
}
