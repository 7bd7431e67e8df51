package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// filesSettleTime is how long files must be unchanged before they are read:
// some installers write in several steps.
const filesSettleTime = 100 * time.Millisecond

// files watches the runtime's directories.
type files struct {
	confDir, binDir string
	log             *slog.Logger
	watcher         *fsnotify.Watcher // nil if unavailable
	writers         *writers
}

// watchFiles starts a watcher. Without one, files are checked periodically.
func watchFiles(confDir, binDir string, log *slog.Logger) *files {
	f := &files{confDir: confDir, binDir: binDir, log: log, writers: new(writers)}
	var err error
	if f.watcher, err = fsnotify.NewWatcher(); err != nil {
		log.Warn("files cannot be watched: they are looked at every minute", "reason", err)
	}
	return f
}

func (f *files) close() {
	f.writers.close()
	if f.watcher != nil {
		_ = f.watcher.Close()
	}
}

// add watches the directories that exist now: a network's own, below the
// configuration directory, may be created and deleted.
func (f *files) add() {
	if f.watcher == nil {
		return
	}
	dirs := []string{f.confDir, f.binDir}
	entries, _ := os.ReadDir(f.confDir)
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, filepath.Join(f.confDir, e.Name()))
		}
	}
	for _, dir := range dirs {
		_ = f.watcher.Add(dir) // a missing directory is retried later
	}
	f.writers.add(f.confDir)
}

// wait waits until a relevant file changes, or for d. It reports false if ctx
// is done.
func (f *files) wait(ctx context.Context, d time.Duration) bool {
	f.add()
	timer := time.NewTimer(d)
	defer timer.Stop()
	var events chan fsnotify.Event
	var errs chan error
	if f.watcher != nil {
		events, errs = f.watcher.Events, f.watcher.Errors
	}
	for changed := false; ; {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case err := <-errs: // an overflow: check everything
			f.log.Debug("changes of files were lost", "reason", err)
			return true
		case e := <-events:
			if !f.matters(e) {
				continue
			}
			// The first change shortens the wait, and later ones extend it.
			if !changed || timer.Stop() {
				timer.Reset(min(d, filesSettleTime))
			}
			changed = true
		}
	}
}

// matters reports whether an event is about a file that the agent reads, as
// opposed to the temporary file of an installer, ours or another.
func (f *files) matters(e fsnotify.Event) bool {
	if e.Op == fsnotify.Chmod {
		return false
	}
	dir, name := filepath.Split(e.Name)
	if filepath.Clean(dir) == filepath.Clean(f.binDir) {
		return name == "hostport" || name == "hostportctl"
	}
	return !strings.HasPrefix(name, ".") && !strings.Contains(name, ".hostport-")
}

// writer names the process that last changed a configuration, if known.
func (f *files) writer() string { return f.writers.writer().String() }
