//go:build bench

package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/test/world"
)

// run is what one whole process cost, its children included.
type run struct {
	wall, cpu time.Duration
	faults    int64 // pages that had to be given to it
}

// process starts a program on the node and waits for it.
func process(w *world.World, path string, env []string, stdin []byte, args ...string) (run, error) {
	r, _, err := execute(w, path, env, stdin, args...)
	return r, err
}

// execute is process that also returns what the program wrote. No goroutine
// copies anything meanwhile: it would be measured as well.
func execute(w *world.World, path string, env []string, stdin []byte, args ...string) (r run, output []byte, err error) {
	if path, err = installed(path); err != nil {
		return run{}, nil, err
	}
	in, err := memory("stdin", stdin)
	if err != nil {
		return run{}, nil, err
	}
	defer in.Close()
	out, err := memory("output", nil)
	if err != nil {
		return run{}, nil, err
	}
	defer out.Close()
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, in, out, out
	// Start and wait in one go: a change of threads between them would be
	// measured as well.
	err = w.Node.Try(func() error {
		start := time.Now()
		err := cmd.Run()
		r.wall = time.Since(start)
		return err
	})
	if _, serr := out.Seek(0, io.SeekStart); serr == nil {
		output, _ = io.ReadAll(out)
	}
	if err != nil {
		return run{}, output, fmt.Errorf("%s %v: %w\n%s", filepath.Base(path), env, err, output)
	}
	s := cmd.ProcessState
	r.cpu, r.faults = s.UserTime()+s.SystemTime(), s.SysUsage().(*syscall.Rusage).Minflt
	return r, output, nil
}

var installing sync.Mutex

// installed is a copy of a program in the directory of that flag: on the disk,
// and written as a copy is. The pages of a file in memory, or of one as the
// linker leaves it, are smaller, and a process has to fault in more of them.
func installed(program string) (path string, err error) {
	if *install == "" {
		return program, nil
	}
	installing.Lock()
	defer installing.Unlock()
	path = filepath.Join(*install, filepath.Base(program))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path, content, 0o755)
}

// reinstall copies every installed program once more. How large the pages are
// that a copy gets depends on what memory is free, and makes several percent of
// a process that does little.
func reinstall(t *testing.T) {
	t.Helper()
	if *install == "" {
		return
	}
	copies, err := filepath.Glob(filepath.Join(*install, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range copies {
		content, err := os.ReadFile(c)
		if err == nil {
			err = errors.Join(os.Remove(c), os.WriteFile(c, content, 0o755))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// memory is a file in memory alone.
func memory(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(content); err != nil {
		return nil, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

// peak is the most memory that a program's largest process had, in KiB.
func peak(w *world.World, meter, path string, env []string, stdin []byte) (float64, error) {
	_, out, err := execute(w, meter, env, stdin, path)
	if err != nil {
		return 0, err
	}
	_, figure, _ := bytes.Cut(out, []byte("\npeak "))
	return strconv.ParseFloat(string(figure), 64)
}

// series are the observations of one verb.
type series struct{ wall, cpu, faults []float64 }

func (s *series) add(r run) {
	s.wall = append(s.wall, milliseconds(r.wall))
	s.cpu = append(s.cpu, milliseconds(r.cpu))
	s.faults = append(s.faults, float64(r.faults))
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
