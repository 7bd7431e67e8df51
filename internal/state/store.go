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
)

// schema is the version of the file's layout. Another one is not read.
const schema = "1"

// asideInfix is between the name of a file that was moved aside and the time.
const asideInfix = ".damaged-"

// ErrDamaged is wrapped by errors that mean: what the file holds cannot be
// trusted. Rebuild moves such a file aside.
var ErrDamaged = errors.New("state file is damaged")

// Origin tells where the records of an opened Store come from.
type Origin int

const (
	// Kept means that the file was there, and is of this boot.
	Kept Origin = iota
	// Created means that there was no file. The kernel may hold rules nevertheless, if
	// somebody deleted it.
	Created
	// Rebooted means that the file was of an earlier boot: its records were
	// dropped.
	Rebooted
	// Replaced means that the file was damaged or of another schema, and moved aside.
	Replaced
)

// note is how the file remembers where it comes from, until Recovered.
func (o Origin) note() string {
	switch o {
	case Created:
		return "created"
	case Replaced:
		return "replaced"
	default:
		return ""
	}
}

// Options tell Open where the state is and how long to wait for it.
type Options struct {
	// Dir is the state directory, an absolute path. It is made when missing.
	Dir string
	// Timeout bounds the wait for the lock.
	Timeout time.Duration
	// BootID identifies the running kernel.
	BootID string
}

// Store is the opened and locked state. It is not safe for concurrent use.
type Store struct {
	opts   Options
	lock   *os.File
	db     *bolt.DB
	origin Origin
	aside  string
}

// Open takes the lock and opens the file, making or replacing it if need be.
// The error wraps ErrLocked when the lock was not to be had.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := prepare(o.Dir); err != nil {
		return nil, err
	}
	l, err := lock(ctx, o.Dir, o.Timeout)
	if err != nil {
		return nil, err
	}
	s := &Store{opts: o, lock: l}
	err = s.open()
	if errors.Is(err, ErrDamaged) {
		err = s.Rebuild()
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return s, nil
}

// Origin tells where the records come from. A file stays Created or Replaced,
// however many processes die in between, until Recovered is called.
func (s *Store) Origin() Origin { return s.origin }

// Recovered notes that what the kernel holds was recorded in the new file.
func (s *Store) Recovered() error {
	err := s.Update(func(tx *Tx) error { return tx.tx.Bucket(bucketMeta).Delete(keyOrigin) })
	if err != nil {
		return fmt.Errorf("note that records were read back: %w", err)
	}
	s.origin = Kept
	return nil
}

// Aside is the path to which a damaged file was moved, or "".
func (s *Store) Aside() string { return s.aside }

// Close gives file and lock back.
func (s *Store) Close() error {
	var err error
	if s.db != nil {
		err = s.close()
	}
	return errors.Join(err, s.lock.Close())
}

// Rebuild moves the file aside and starts an empty one. The damaged one is
// kept for whoever wants to know what happened to it.
func (s *Store) Rebuild() error {
	// A damaged database is not closed: that may panic or block for good. Its
	// descriptor goes with the process.
	s.db = nil
	path := filepath.Join(s.opts.Dir, dbName)
	s.aside = fmt.Sprintf("%s%s%s", path, asideInfix, time.Now().UTC().Format("20060102T150405.000000000"))
	if err := os.Rename(path, s.aside); err != nil {
		return fmt.Errorf("move damaged state file aside: %w", err)
	}
	return s.open()
}

func (s *Store) open() error {
	path := filepath.Join(s.opts.Dir, dbName)
	fresh, err := s.look(path)
	if err != nil {
		return err
	}
	err = guard(func() (err error) {
		s.db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout:  s.opts.Timeout,
			NoSync:   true,
			OpenFile: openFile,
		})
		return err
	})
	if err != nil {
		s.db = nil
		if fresh {
			// A full disk must not leave one more empty file a pod.
			err = errors.Join(err, removeIfThere(path))
		}
		return openError(path, err)
	}
	known, err := s.known(fresh)
	if err != nil || known {
		return err
	}
	return s.Update(func(tx *Tx) error { return s.reset(tx) })
}

// look decides what the file is before anything reads it: fresh when there is
// none.
func (s *Store) look(path string) (fresh bool, err error) {
	_, err = os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		s.origin = Created
		// A file that was moved aside and has no successor: whoever did that
		// died before the new one was there.
		if aside, _ := filepath.Glob(path + asideInfix + "*"); len(aside) > 0 {
			s.origin = Replaced
		}
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at state file: %w", err)
	}
	s.origin = Kept
	if s.sealed(path) {
		return false, nil
	}
	if err := verify(path); err != nil {
		return false, fmt.Errorf("open %q: %w", path, err)
	}
	return false, nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// openError tells damage, which is repaired, from refusals, which are not.
func openError(path string, err error) error {
	for _, damage := range []error{ErrDamaged, bolterrors.ErrInvalid, bolterrors.ErrVersionMismatch, bolterrors.ErrChecksum} {
		if errors.Is(err, damage) {
			return fmt.Errorf("open %q: %w: %w", path, ErrDamaged, err)
		}
	}
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("open %q: %w", path, ErrLocked)
	}
	if fi, serr := os.Lstat(path); serr == nil && fi.Mode().IsRegular() && unreadable(err) {
		return fmt.Errorf("open %q: %w: %w", path, ErrDamaged, err)
	}
	return fmt.Errorf("open %q: %w", path, err)
}

// unreadable reports an error of bbolt's own about the file's contents, as
// opposed to one of the operating system.
func unreadable(err error) bool {
	var pe *os.PathError
	var se *os.SyscallError
	var no interface{ Temporary() bool } // syscall.Errno
	return !errors.As(err, &pe) && !errors.As(err, &se) && !errors.As(err, &no)
}

// known reports whether the file's records can be used as they are: they are
// of this schema and of this boot.
func (s *Store) known(fresh bool) (bool, error) {
	known := false
	err := s.View(func(tx *Tx) error {
		meta := tx.tx.Bucket(bucketMeta)
		switch {
		case fresh:
			return nil
		case meta == nil:
			return damagef("it has no metadata")
		case string(meta.Get(keySchema)) != schema:
			return damagef("its schema is %q, this program's %q", meta.Get(keySchema), schema)
		}
		for _, b := range buckets() {
			if tx.tx.Bucket(b) == nil {
				return damagef("it has no bucket %q", b)
			}
		}
		known = string(meta.Get(keyBoot)) == s.opts.BootID
		if !known {
			s.origin = Rebooted
			return nil
		}
		switch string(meta.Get(keyOrigin)) {
		case Created.note():
			s.origin = Created
		case Replaced.note():
			s.origin = Replaced
		}
		return nil
	})
	return known, err
}

// reset makes every bucket anew.
func (s *Store) reset(tx *Tx) error {
	for _, b := range buckets() {
		if err := tx.tx.DeleteBucket(b); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
			return fmt.Errorf("drop records of an earlier boot: %w", err)
		}
		if _, err := tx.tx.CreateBucket(b); err != nil {
			return fmt.Errorf("create bucket: %w", err)
		}
	}
	meta := tx.tx.Bucket(bucketMeta)
	err := errors.Join(meta.Put(keySchema, []byte(schema)), meta.Put(keyBoot, []byte(s.opts.BootID)))
	if note := s.origin.note(); note != "" {
		err = errors.Join(err, meta.Put(keyOrigin, []byte(note)))
	}
	return err
}

// guard turns what a damaged file does to a reader of mapped memory (a panic
// about a page, a bus error behind the end of a truncated file) into
// ErrDamaged.
func guard(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return fn()
}

// Update runs fn in a transaction that is committed when fn returns nil.
func (s *Store) Update(fn func(*Tx) error) error {
	return guard(func() error {
		return s.db.Update(func(tx *bolt.Tx) error { return fn(&Tx{tx}) })
	})
}

// View runs fn in a transaction that cannot write.
func (s *Store) View(fn func(*Tx) error) error {
	return guard(func() error {
		return s.db.View(func(tx *bolt.Tx) error { return fn(&Tx{tx}) })
	})
}
