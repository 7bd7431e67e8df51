package kubernetes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupPrefix is followed by the ID of the process whose test made the cgroup,
// and a name of the node's own.
const cgroupPrefix = "hostport-kubernetes-"

// cgroup is where the pods of one node live: a folder of the same name in every
// cgroup hierarchy, or in the one of cgroup v2.
type cgroup struct {
	name  string
	roots []string
}

func newCgroup(node string) (*cgroup, error) {
	roots, err := cgroupRoots()
	if err != nil {
		return nil, err
	}
	removeStale(roots)
	c := &cgroup{name: cgroupPrefix + strconv.Itoa(os.Getpid()) + "-" + node, roots: roots}
	for _, root := range roots {
		if err := os.Mkdir(filepath.Join(root, c.name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make a cgroup: %w", err)
		}
	}
	return c, nil
}

// cgroupRoots returns where the hierarchies with controllers are mounted.
func cgroupRoots() ([]string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var v1, v2 []string
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		switch {
		case fields[2] == "cgroup":
			v1 = append(v1, fields[1])
		case fields[2] == "cgroup2":
			v2 = append(v2, fields[1])
		}
	}
	if len(v1)+len(v2) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted")
	}
	return append(v1, v2...), nil
}

// remove waits for the dying processes inside: a cgroup is removed when empty.
func (c *cgroup) remove() {
	deadline := time.Now().Add(10 * time.Second)
	for _, root := range c.roots {
		for {
			err := removeTree(filepath.Join(root, c.name))
			if err == nil || time.Now().After(deadline) {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// removeTree removes folders from the leaves up; the kernel's files in them go along.
func removeTree(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(path, entry.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(path)
}

// removeStale removes what tests left that were killed before they could.
func removeStale(roots []string) {
	for _, root := range roots {
		paths, _ := filepath.Glob(filepath.Join(root, cgroupPrefix+"*"))
		for _, path := range paths {
			owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), cgroupPrefix), "-")
			pid, err := strconv.Atoi(owner)
			if err == nil && pid != os.Getpid() && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
				_ = removeTree(path)
			}
		}
	}
}
