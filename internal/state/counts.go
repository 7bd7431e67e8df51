package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// countsName is the file with the counts: a pair of numbers for each name, in
// the order of countNames. It is beside the records, so that counting neither
// waits for the lock nor touches the database, and it may be lost.
const countsName = "counts"

// countNames are what is counted. A name keeps its place: versions of the
// program share the file.
func countNames() []string {
	return []string{
		"ADD/success", "ADD/refused", "ADD/busy", "ADD/invalid", "ADD/failed",
		"DEL/success", "DEL/busy", "DEL/failed",
		"CHECK/success", "CHECK/differs", "CHECK/busy", "CHECK/invalid", "CHECK/failed",
		"GC/success", "GC/busy", "GC/invalid", "GC/failed",
		"conflict/port", "conflict/address", "conflict/listener", "takeover",
	}
}

// Count is how often something happened, and how long it took altogether.
type Count struct {
	Number uint64
	Took   time.Duration
}

// countSize is that of a Count in the file.
const countSize = 16

// AddCount counts one more of a name, which is one that Counts returns. Without
// a state directory there is nothing to count in, which is no error.
func AddCount(dir, name string, took time.Duration) error {
	at := int64(slices.Index(countNames(), name)) * countSize
	if at < 0 {
		return fmt.Errorf("count %q: unknown", name)
	}
	return writeBeside(dir, countsName, func(f *os.File) error {
		var b [countSize]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			b = [countSize]byte{} // behind the end of the file
		}
		c := decodeCount(b[:])
		binary.LittleEndian.PutUint64(b[:], c.Number+1)
		binary.LittleEndian.PutUint64(b[8:], uint64(c.Took+took))
		_, err := f.WriteAt(b[:], at)
		return err
	})
}

// writeBeside has fn write a file beside the records that it alone has locked, in a
// directory that may hold the state: not behind a symbolic link, and not another
// user's. Without a directory it does nothing.
func writeBeside(dir, name string, fn func(*os.File) error) error {
	_, err := safe(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var f *os.File
	if err == nil {
		f, err = openFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer f.Close() // which unlocks
	if err = flock(f, unix.LOCK_EX); err == nil {
		err = fn(f)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Counts returns the counts by name, all of them, zero where nothing was
// counted. It takes no lock.
func Counts(dir string) (map[string]Count, error) {
	b, err := os.ReadFile(filepath.Join(dir, countsName))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	out := make(map[string]Count)
	for i, name := range countNames() {
		out[name] = Count{}
		if end := (i + 1) * countSize; end <= len(b) {
			out[name] = decodeCount(b[end-countSize : end])
		}
	}
	return out, err
}

func decodeCount(b []byte) Count {
	return Count{binary.LittleEndian.Uint64(b), time.Duration(binary.LittleEndian.Uint64(b[8:]))}
}

// Remove removes the state, and the directory if nothing else is in it. It is
// for the end of an installation: nobody may use the state meanwhile.
func Remove(dir string) error {
	var errs []error
	for _, name := range []string{dbName, countsName, refusalsName, lockName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	_ = os.Remove(dir) // which may be another's
	return errors.Join(errs...)
}
