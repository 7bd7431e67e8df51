// Package state keeps the attachments of this node on disk, and the lock that allows one
// process at a time to change the node: docs/design.md, "Records are facts".
//
// A damaged file is moved aside and replaced by an empty one, unless a guest finds it.
// bbolt has checksums only for its meta pages: any other damaged page may make it panic,
// recurse until the stack is full, or loop. Panics are recovered, and a process that loops
// ends itself. Processes that die while they read or write the file are counted in the lock
// file: the next process that may write checks the whole file, and after the third death in
// a row the file is moved aside unread.
package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// ErrDamaged is wrapped by errors that mean: the contents of the file cannot be
// trusted. Rebuild moves such a file aside.
var ErrDamaged = errors.New("state file is damaged")

// OtherError says that the file is not of this boot and version: the plugin has yet
// to convert it.
type OtherError struct {
	// Void is set if there are no records: the file is new, or of an earlier boot.
	Void bool
	text string
}

func (e *OtherError) Error() string { return e.text }

// Options tell Open where the state is and which program opens it.
type Options struct {
	Dir      string        // the state directory, an absolute path; it is created if missing
	Timeout  time.Duration // bounds the wait for the lock
	BootID   string        // identifies the running kernel
	Layout   int           // the version of the rules that this program writes
	Backends []string      // the names of all backends, for Pending and Records
	// Guest is set by any program but the plugin. A file that the plugin has yet to
	// convert or replace is left as it is, see OtherError and ErrDamaged.
	Guest bool
	// ReadOnly is set by a guest that only reads. Nothing is created or written in
	// Dir, and records of another version are read as they are, see Store.Other.
	ReadOnly bool
}

// Store is the opened and locked state. It is not safe for concurrent use.
type Store struct {
	// Aside is the path to which a damaged file was moved, or "".
	Aside string
	// Other is why a file that was opened ReadOnly is not this program's, nil if it is.
	// Only Records can be relied on then, and it returns no fingerprints.
	Other *OtherError

	opts   Options
	path   string
	lock   *os.File
	db     *bolt.DB
	file   *os.File // of db
	inode  string   // of file, with its device
	deaths int      // how many processes died while using the file before this one
}

// Open takes the lock and opens the file, which it creates, converts or
// replaces if necessary; all rules are then Pending. The error wraps ErrLocked if
// the lock could not be acquired in time.
func Open(ctx context.Context, o Options) (*Store, error) {
	o.Guest = o.Guest || o.ReadOnly
	l, err := lock(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &Store{opts: o, path: filepath.Join(o.Dir, dbName), lock: l, deaths: deaths(l)}
	err = s.open()
	if errors.Is(err, ErrDamaged) {
		s.db = nil // see Rebuild
		if !o.Guest {
			err = s.Rebuild()
		} else if s.file != nil {
			// A guest continues to run, and must not lock out the plugin. Closing the file
			// is not enough: it is mapped.
			_ = errors.Join(flock(s.file, unix.LOCK_UN), s.file.Close())
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close closes the file and releases the lock.
func (s *Store) Close() error {
	var err error
	if s.db != nil {
		s.deaths = 0 // this process lived
		err = s.guard(s.db.Close)
	}
	return errors.Join(err, s.lock.Close())
}

// Rebuild moves the file aside and starts an empty one. The damaged file is
// kept for analysis.
func (s *Store) Rebuild() error {
	// A damaged database is not closed: that may panic or block forever. Its
	// descriptor is closed with the process.
	s.db = nil
	s.Aside = s.path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000000000")
	if err := os.Rename(s.path, s.Aside); err != nil {
		return fmt.Errorf("move damaged state file aside: %w", err)
	}
	s.deaths = 0
	return s.open()
}

// open opens the file and converts its contents to this boot, schema and layout.
func (s *Store) open() error {
	fi, err := os.Lstat(s.path)
	fresh := errors.Is(err, os.ErrNotExist)
	if s.deaths >= 3 && !fresh {
		return damagef("%d processes died while they used it", s.deaths)
	}
	if s.opts.ReadOnly && err == nil && fi.Size() == 0 {
		return newFile() // bbolt would write into it
	}
	err = s.guard(func() (err error) {
		s.db, err = bolt.Open(s.path, 0o600, &bolt.Options{
			// Only a tool that examines the file takes this lock.
			Timeout:  min(s.opts.Timeout, patience/2),
			NoSync:   true,
			ReadOnly: s.opts.ReadOnly,
			OpenFile: func(name string, flag int, perm os.FileMode) (_ *os.File, err error) {
				if s.opts.ReadOnly {
					perm = 0
				}
				s.file, err = openOwn(name, flag, perm)
				return s.file, err
			},
		})
		if err != nil {
			return fmt.Errorf("open %q: %w", s.path, err)
		}
		return s.db.View(func(tx *bolt.Tx) (err error) {
			if err = s.verify(tx); err == nil {
				s.Other, err = (&Tx{tx, s}).differs()
			}
			return err
		})
	})
	if err != nil && fresh && !s.opts.ReadOnly {
		// On a full disk, every pod would leave another truncated file.
		if rerr := os.Remove(s.path); !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	var no unix.Errno
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		err = fmt.Errorf("open %q: %w", s.path, ErrLocked)
	case err != nil && !errors.Is(err, ErrDamaged) && !errors.As(err, &no): // not a system error
		err = damagef("%w", err)
	}
	switch {
	case err != nil || s.Other == nil || s.opts.ReadOnly && !s.Other.Void:
		return err
	case s.opts.Guest:
		return s.Other
	}
	s.Other = nil
	return s.Update((*Tx).convert)
}

// verify checks that the file is intact. A file that is shorter than its metadata say
// was truncated, which bbolt notices only when it uses a missing page: by then the rules
// may be lost too. To check its whole structure takes about a millisecond for a thousand
// attachments, and may end the process, because a fault in the goroutine that bbolt starts
// for it cannot be recovered: a process whose death is not counted does not do it.
func (s *Store) verify(tx *bolt.Tx) error {
	var st unix.Stat_t
	err := unix.Stat(s.path, &st)
	if err != nil {
		return fmt.Errorf("look at state file: %w", err)
	}
	s.inode = fmt.Sprint(st.Dev, st.Ino)
	if want := tx.Size(); st.Size < want {
		return damagef("it has %d bytes of %d", st.Size, want)
	}
	if s.deaths > 0 && !s.opts.ReadOnly {
		for damage := range tx.Check() { // its goroutine waits until all are read
			err = damagef("%w", damage)
		}
	}
	return err
}

// patience is how long one transaction may take. Milliseconds are usual, and a
// few seconds if it searches for a hundred dead sandboxes; in a damaged file
// bbolt may loop forever.
const patience = time.Minute

// guard calls fn, which reads or writes the file. It counts this process as dead
// until fn returns, unless the file is read-only, and ends it after patience. Panics
// about damaged pages, bus errors beyond the end of a truncated file, writes to
// impossible page numbers, and buckets in the place of values are returned as ErrDamaged.
func (s *Store) guard(fn func() error) (err error) {
	setDeaths(s.lock, s.deaths+1)
	hang := time.AfterFunc(patience, func() {
		panic(fmt.Sprintf("state file in %s is damaged: it could not be read or written within %v", s.opts.Dir, patience))
	})
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		hang.Stop()
		if r := recover(); r != nil {
			err = damagef("%v", r)
		}
		if errors.Is(err, unix.EFBIG) || errors.Is(err, bolterrors.ErrIncompatibleValue) {
			err = damagef("%w", err)
		}
		setDeaths(s.lock, s.deaths)
	}()
	return fn()
}

// Update runs fn in a transaction that is committed if fn returns nil.
func (s *Store) Update(fn func(*Tx) error) error {
	return s.guard(func() error {
		return s.db.Update(func(tx *bolt.Tx) error { return fn(&Tx{tx, s}) })
	})
}

// Read runs fn in a transaction that cannot write.
func (s *Store) Read(fn func(*Tx) error) error {
	return s.guard(func() error {
		return s.db.View(func(tx *bolt.Tx) error { return fn(&Tx{tx, s}) })
	})
}
