package agent

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// writers finds out which process changes files in directories. inotify, which
// watches them, does not report it; fanotify does, to root, and for renames
// since Linux 5.9. Without fanotify the process is unknown.
type writers struct {
	f    *os.File // nil before add, and without fanotify
	mask uint64

	mu   sync.Mutex
	last process
}

// fanotifyKinds returns the kinds of fanotify groups, the better one first:
// without file names, the kernel does not report renames.
func fanotifyKinds() []struct {
	flags uint
	mask  uint64
} {
	const written = unix.FAN_CLOSE_WRITE | unix.FAN_EVENT_ON_CHILD
	return []struct {
		flags uint
		mask  uint64
	}{
		{unix.FAN_REPORT_DFID_NAME, written | unix.FAN_MOVED_TO | unix.FAN_DELETE},
		{0, written},
	}
}

// add watches a directory, including one that replaced another.
func (w *writers) add(dir string) {
	if w.f != nil {
		_ = w.mark(w.f, w.mask, dir) // a missing directory is retried later
		return
	}
	for _, kind := range fanotifyKinds() {
		fd, err := unix.FanotifyInit(kind.flags|unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC)
		if err != nil {
			continue
		}
		f := os.NewFile(uintptr(fd), "fanotify")
		if w.mark(f, kind.mask, dir) == nil {
			w.f, w.mask = f, kind.mask
			go w.read(f)
			return
		}
		_ = f.Close()
	}
}

func (w *writers) mark(f *os.File, mask uint64, dir string) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var marked error
	err = raw.Control(func(fd uintptr) {
		marked = unix.FanotifyMark(int(fd), unix.FAN_MARK_ADD|unix.FAN_MARK_ONLYDIR, mask, unix.AT_FDCWD, dir)
	})
	return errors.Join(err, marked)
}

// close ends the watch.
func (w *writers) close() {
	if w.f != nil {
		_ = w.f.Close()
	}
}

// read records which process made the last change, until close.
func (w *writers) read(f *os.File) {
	const header, pidAt, fdAt = 24, 20, 16 // of struct fanotify_event_metadata
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= header; {
			length := int(binary.NativeEndian.Uint32(b))
			if length < header || length > len(b) {
				break
			}
			if fd := int32(binary.NativeEndian.Uint32(b[fdAt:])); fd >= 0 {
				_ = unix.Close(int(fd))
			}
			if pid := binary.NativeEndian.Uint32(b[pidAt:]); pid != 0 && int(pid) != os.Getpid() {
				by := look(pid, comm(int(pid)))
				w.mu.Lock()
				w.last = by
				w.mu.Unlock()
			}
			b = b[length:]
		}
	}
}

// writer returns the process that made the last change that was not ours.
func (w *writers) writer() process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}
