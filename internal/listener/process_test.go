package listener

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestHoldersLowestPID attributes a socket that workers have inherited to their
// master, which has the lowest process ID: compared as a number, not as text.
func TestHoldersLowestPID(t *testing.T) {
	proc := t.TempDir()
	for fd, link := range map[string]string{
		"998/fd/3": "socket:[7]", "1001/fd/3": "socket:[7]", "1001/fd/4": "socket:[8]", "998/fd/0": "/dev/null",
		"self/fd/3": "socket:[9]", "997/fd/3": "socket:[7]", "997/fd/4": "socket:[10]",
	} {
		must(t, os.MkdirAll(filepath.Join(proc, filepath.Dir(fd)), 0o755))
		must(t, os.Symlink(link, filepath.Join(proc, fd)))
	}
	for pid, name := range map[string]string{"998": "master\n", "1001": "worker\n"} { // 997 has exited
		must(t, os.WriteFile(filepath.Join(proc, pid, "comm"), []byte(name), 0o644))
	}
	want := map[string]process{"socket:[7]": {998, "master"}, "socket:[8]": {1001, "worker"}}
	if diff := cmp.Diff(want, holders(proc), cmp.AllowUnexported(process{})); diff != "" {
		t.Errorf("holders (-want +got):\n%s", diff)
	}
}
