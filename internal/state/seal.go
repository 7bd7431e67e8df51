package state

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// seal is what identifies the file as the last process left it: inode, size,
// and the time of its last change. A file that still has it was touched by
// nobody since, so its structure need not be walked again, and what an
// invocation costs does not grow with the attachments. It is kept in the lock
// file; a process that dies leaves none that fits.
func seal(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", fmt.Errorf("look at state file: %w", err)
	}
	return fmt.Sprintf("%d %d %d %d.%09d\n", st.Dev, st.Ino, st.Size, st.Ctim.Sec, st.Ctim.Nsec), nil
}

// sealed reports whether the file is as the last process left it.
func (s *Store) sealed(path string) bool {
	now, err := seal(path)
	if err != nil {
		return false
	}
	was := make([]byte, len(now)+1)
	n, err := s.lock.ReadAt(was, 0)
	return (err == nil || errors.Is(err, io.EOF)) && string(was[:n]) == now
}

// close gives the database back and seals the file. Without a seal, on a full
// disk say, the next process walks the file; that is no error.
func (s *Store) close() error {
	if err := guard(s.db.Close); err != nil {
		return err
	}
	if now, err := seal(filepath.Join(s.opts.Dir, dbName)); err == nil && s.lock.Truncate(0) == nil {
		_, _ = s.lock.WriteAt([]byte(now), 0)
	}
	return nil
}
