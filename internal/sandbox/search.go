package sandbox

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// places are where a network namespace was found.
type places struct {
	path      string   // the first mount point that the caller sees
	mounts    []string // all mount points, also in other mount namespaces
	inhabited bool     // a process is in it
}

func (p places) found() bool { return p.inhabited || len(p.mounts) > 0 }

// search looks for a network namespace: in the caller's mounts, then at the
// main threads of all processes, then in the mounts of their mount namespaces.
// It stops as soon as enough returns true. With an error it returns what it
// found in what could be read.
func search(inode uint64, enough func(places) bool) (p places, err error) {
	own, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return p, fmt.Errorf("list mounts: %w", err)
	}
	p.mounts = mountPoints(own, inode)
	if len(p.mounts) > 0 {
		p.path = p.mounts[0]
	}
	if enough(p) {
		return p, nil
	}
	pids, err := processes()
	if err != nil {
		return p, err
	}
	unread := eachProcess(pids, "net", func(_ string, ns uint64) (more bool, err error) {
		p.inhabited = p.inhabited || ns == inode
		return !p.inhabited, nil
	})
	if enough(p) {
		return p, nil
	}
	view, err := OwnView()
	if err != nil {
		return p, err
	}
	// A namespace that processes are in may have been mounted since.
	seen := map[uint64]bool{view.Mount: !p.inhabited}
	err = eachProcess(pids, "mnt", func(pid string, ns uint64) (more bool, err error) {
		if seen[ns] {
			return true, nil
		}
		mounts, err := os.ReadFile("/proc/" + pid + "/mountinfo")
		if gone(err) || errors.Is(err, unix.EINVAL) { // EINVAL: a zombie
			return true, nil // perhaps another process of the namespace can be read
		}
		if err != nil {
			return true, fmt.Errorf("list mounts of process %s: %w", pid, err)
		}
		seen[ns] = true
		p.mounts = append(p.mounts, mountPoints(mounts, inode)...)
		return !enough(p), nil
	})
	return p, cmp.Or(unread, err) // one is enough to say why
}

// processes returns the IDs of the processes that the caller sees.
func processes() ([]string, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	pids := names[:0]
	for _, name := range names {
		if _, err := strconv.ParseUint(name, 10, 32); err == nil {
			pids = append(pids, name)
		}
	}
	return pids, nil
}

// patience is how often processes that cannot be read are tried again: one that
// executes a program or ends refuses for a moment (EACCES).
const patience = 10

// eachProcess calls fn with the inode of a namespace of each process, until more
// is false. It returns the last error that was left.
func eachProcess(pids []string, kind string, fn func(pid string, ns uint64) (more bool, err error)) error {
	for round := 0; ; round++ {
		var refused []string
		var last error
		for _, pid := range pids {
			path := "/proc/" + pid + "/ns/" + kind
			ns, err := stat(path)
			more := true
			switch {
			case err == nil:
				more, err = fn(pid, ns.Inode)
			case gone(err) || pid == "1":
				// Init may be hidden even from root, by another user namespace or a
				// security module, and never keeps a sandbox.
				continue
			default:
				err = fmt.Errorf("stat %s: %w", path, err)
			}
			if !more {
				return nil
			}
			if err != nil {
				refused, last = append(refused, pid), err
			}
		}
		if last == nil || round == patience {
			return last
		}
		time.Sleep(20 * time.Millisecond)
		pids = refused
	}
}

// mountPoints returns where a mountinfo file (proc_pid_mountinfo(5)) has a
// network namespace mounted. The root of such a mount is "net:[INODE]", and
// only file system type nsfs has such roots that are not file names.
func mountPoints(mountinfo []byte, inode uint64) []string {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	root := []byte("net:[" + strconv.FormatUint(inode, 10) + "]")
	var points []string
	for line := range bytes.Lines(mountinfo) {
		if !bytes.Contains(line, root) {
			continue
		}
		// ID parent major:minor root mountpoint options [tag...] - type source options
		f := bytes.Fields(line)
		if len(f) < 7 || !bytes.Equal(f[3], root) {
			continue
		}
		for i := 6; i+1 < len(f); i++ {
			if string(f[i]) == "-" {
				if string(f[i+1]) == "nsfs" {
					points = append(points, unescape.Replace(string(f[4])))
				}
				break
			}
		}
	}
	return points
}

// gone reports whether err means that there is no such file. A path through
// /proc/PID answers ESRCH, and one below a directory that became a file ENOTDIR.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOTDIR)
}
