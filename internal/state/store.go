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

// asideInfix stands between the name of a file that was moved aside and the
// time.
const asideInfix = ".damaged-"

// ErrDamaged is wrapped by errors that mean: the contents of the file cannot be
// trusted. Rebuild moves such a file aside.
var ErrDamaged = errors.New("state file is damaged")

// ErrOther is wrapped by a guest's errors that mean: the file is new, of another
// boot or of another version of the plugin.
var ErrOther = errors.New("the state file is of another boot or another version of the plugin")

// Options tell Open where the state is and which program opens it.
type Options struct {
	// Dir is the state directory, an absolute path. It is created if missing.
	Dir string
	// Timeout bounds the wait for the lock.
	Timeout time.Duration
	// BootID identifies the running kernel.
	BootID string
	// Layout is the version of the rules that this program writes.
	Layout int
	// Backends are the names of all backends, for Pending.
	Backends []string
	// Guest is set by a program beside the plugin. A file that the plugin has yet
	// to convert or to replace is left as it is, see ErrOther and ErrDamaged.
	Guest bool
}

// Store is the opened and locked state. It is not safe for concurrent use.
type Store struct {
	opts  Options
	lock  *os.File
	db    *bolt.DB
	aside string
	// deaths counts the processes that died in the file before this one.
	deaths int
}

// Open takes the lock and opens the file, which it creates, converts or
// replaces if need be; all rules are then Pending. The error wraps ErrLocked if
// the lock could not be acquired in time.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := prepare(o.Dir); err != nil {
		return nil, err
	}
	l, err := lock(ctx, o.Dir, o.Timeout)
	if err != nil {
		return nil, err
	}
	s := &Store{opts: o, lock: l, deaths: deaths(l)}
	if s.deaths >= maxDeaths && Exists(o.Dir) {
		err = fmt.Errorf("%w: %d processes died while they used it", ErrDamaged, s.deaths)
	} else {
		err = s.open()
	}
	if errors.Is(err, ErrDamaged) && !o.Guest {
		err = s.Rebuild()
	}
	if err != nil {
		if s.db != nil && errors.Is(err, ErrOther) {
			err = errors.Join(err, s.guard(s.db.Close))
		}
		l.Close()
		return nil, err
	}
	return s, nil
}

// Aside returns the path to which a damaged file was moved, or "".
func (s *Store) Aside() string { return s.aside }

// Close closes the file and releases the lock.
func (s *Store) Close() error {
	var err error
	s.deaths = 0 // this process lived
	if s.db != nil {
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
	path := filepath.Join(s.opts.Dir, dbName)
	s.aside = fmt.Sprintf("%s%s%s", path, asideInfix, time.Now().UTC().Format("20060102T150405.000000000"))
	if err := os.Rename(path, s.aside); err != nil {
		return fmt.Errorf("move damaged state file aside: %w", err)
	}
	s.deaths = 0
	return s.open()
}

func (s *Store) open() error {
	path := filepath.Join(s.opts.Dir, dbName)
	fresh := !Exists(s.opts.Dir)
	if fi, err := os.Lstat(path); err == nil && fi.Mode().IsRegular() && fi.Size() == 0 {
		return fmt.Errorf("%w: it is empty", ErrDamaged) // bbolt would take it for a new one
	}
	var refused error
	err := s.guard(func() (err error) {
		s.db, err = bolt.Open(path, 0o600, &bolt.Options{
			// Nobody but a tool that examines the file takes this lock.
			Timeout: min(s.opts.Timeout, patience/2),
			NoSync:  true,
			OpenFile: func(name string, flag int, perm os.FileMode) (f *os.File, err error) {
				f, refused = openFile(name, flag, perm)
				return f, refused
			},
		})
		return err
	})
	if refused != nil {
		return fmt.Errorf("open state file: %w", refused)
	}
	if err != nil {
		s.db = nil
		if fresh {
			// On a full disk, every pod would leave one more truncated file.
			if rerr := os.Remove(path); !errors.Is(rerr, os.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
		return openError(path, err)
	}
	if s.deaths > 0 {
		if err := s.verify(); err != nil {
			return err
		}
	}
	return s.settle()
}

// verify checks the structure of the whole file. It takes about a millisecond
// for a thousand attachments, so it is left out unless a process died in the
// file.
func (s *Store) verify() error {
	return s.View(func(tx *Tx) error {
		var damage error
		for err := range tx.tx.Check() { // its goroutine waits until all are read
			if damage == nil {
				damage = fmt.Errorf("%w: %w", ErrDamaged, err)
			}
		}
		return damage
	})
}

// settle makes the contents those of this boot, schema and layout. A file that is
// shorter than its metadata say was cut off, which bbolt notices only when it
// uses a page that is missing: by then the rules may be lost too.
func (s *Store) settle() error {
	fi, err := os.Stat(s.db.Path())
	if err != nil {
		return fmt.Errorf("look at state file: %w", err)
	}
	var current bool
	err = s.View(func(tx *Tx) (err error) {
		if is, want := fi.Size(), tx.tx.Size(); is < want {
			return damagef("it has %d bytes of %d", is, want)
		}
		current, err = tx.current(s.opts)
		return err
	})
	if err != nil || current {
		return err
	}
	if s.opts.Guest {
		return fmt.Errorf("%w: the plugin converts it", ErrOther)
	}
	return s.Update(func(tx *Tx) error { return tx.convert(s.opts) })
}

// openError tells damage, which is repaired, from failures of the system.
func openError(path string, err error) error {
	var pe *os.PathError
	var se *os.SyscallError
	var no interface{ Temporary() bool } // syscall.Errno
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		err = ErrLocked
	case errors.Is(err, ErrDamaged), !errors.As(err, &pe) && !errors.As(err, &se) && !errors.As(err, &no):
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return fmt.Errorf("open %q: %w", path, err)
}

// patience is how long one transaction may take. Milliseconds are usual, and a
// few seconds where a hundred dead sandboxes are searched for; in a damaged file
// bbolt may loop forever.
const patience = time.Minute

// guard calls fn, which reads or writes the file. It counts this process as
// dead until fn returns, and ends it after patience. Panics about damaged pages,
// bus errors behind the end of a truncated file, writes to page numbers that no
// file has and buckets in the place of values are returned as ErrDamaged.
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
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
		if errors.Is(err, unix.EFBIG) || errors.Is(err, bolterrors.ErrIncompatibleValue) {
			err = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		setDeaths(s.lock, s.deaths)
	}()
	return fn()
}

// Update runs fn in a transaction that is committed if fn returns nil.
func (s *Store) Update(fn func(*Tx) error) error {
	return s.guard(func() error {
		return s.db.Update(func(tx *bolt.Tx) error { return fn(&Tx{tx, s.opts.Layout}) })
	})
}

// View runs fn in a transaction that cannot write.
func (s *Store) View(fn func(*Tx) error) error {
	return s.guard(func() error {
		return s.db.View(func(tx *bolt.Tx) error { return fn(&Tx{tx, s.opts.Layout}) })
	})
}
