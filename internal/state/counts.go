package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	at := -1
	for i, n := range countNames() {
		if n == name {
			at = i * countSize
		}
	}
	if at < 0 {
		return fmt.Errorf("count %q: unknown", name)
	}
	f, err := openBeside(dir, countsName)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open counts: %w", err)
	}
	defer f.Close() // which unlocks
	if err := flock(f, unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock counts: %w", err)
	}
	var b [countSize]byte
	if _, err := f.ReadAt(b[:], int64(at)); err != nil {
		b = [countSize]byte{} // behind the end of the file
	}
	c := decodeCount(b[:])
	binary.LittleEndian.PutUint64(b[:], c.Number+1)
	binary.LittleEndian.PutUint64(b[8:], uint64(c.Took+took))
	if _, err := f.WriteAt(b[:], int64(at)); err != nil {
		return fmt.Errorf("write counts: %w", err)
	}
	return nil
}

// openBeside opens a file beside the records for writing, in a directory that may
// hold the state: not behind a symbolic link, and not another user's.
func openBeside(dir, name string) (*os.File, error) {
	if _, err := safe(dir); err != nil {
		return nil, err
	}
	return openFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
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
