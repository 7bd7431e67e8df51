package listener

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A socket that a master's workers have inherited is the master's, which has the
// lowest process ID by number, and not by its digits.
func TestHoldersLowestPID(t *testing.T) {
	proc := t.TempDir()
	for fd, link := range map[string]string{
		"998/fd/3": "socket:[7]", "1001/fd/3": "socket:[7]", "1001/fd/4": "socket:[8]", "998/fd/0": "/dev/null",
		"self/fd/3": "socket:[9]",
	} {
		must(t, os.MkdirAll(filepath.Join(proc, filepath.Dir(fd)), 0o755))
		must(t, os.Symlink(link, filepath.Join(proc, fd)))
	}
	want := map[string]int{"socket:[7]": 998, "socket:[8]": 1001}
	if diff := cmp.Diff(want, holders(proc)); diff != "" {
		t.Errorf("holders (-want +got):\n%s", diff)
	}
}
