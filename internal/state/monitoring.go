package state

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// countNames returns the names of what is counted. A name keeps its place:
// versions of the program share the file.
func countNames() []string {
	return []string{
		"ADD/success", "ADD/refused", "ADD/busy", "ADD/invalid", "ADD/failed",
		"DEL/success", "DEL/busy", "DEL/failed",
		"CHECK/success", "CHECK/differs", "CHECK/busy", "CHECK/invalid", "CHECK/failed",
		"GC/success", "GC/busy", "GC/invalid", "GC/failed",
		"conflict/port", "conflict/address", "conflict/listener", "takeover",
	}
}

// Count is how often something happened, and how long it took in total.
type Count struct {
	Number uint64
	Took   time.Duration
}

// AddCount adds one to the count of a name, which must be one that Counts
// returns. Without a state directory it does nothing, which is no error.
func AddCount(dir, name string, took time.Duration) error {
	const size = 16 // of a Count in the file
	at := int64(slices.Index(countNames(), name)) * size
	if at < 0 {
		return fmt.Errorf("count %q: unknown", name)
	}
	return writeBeside(dir, countsName, func(f *os.File) error {
		b := make([]byte, size) // zero beyond the end of the file
		_, _ = f.ReadAt(b, at)
		for i, more := range []uint64{1, uint64(took)} {
			sum := b[8*i:]
			binary.LittleEndian.PutUint64(sum, binary.LittleEndian.Uint64(sum)+more)
		}
		_, err := f.WriteAt(b, at)
		return err
	})
}

// Counts returns all counts by name, zero if nothing was counted. It takes no lock.
func Counts(dir string) (map[string]Count, error) {
	b, err := os.ReadFile(filepath.Join(dir, countsName))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	names := countNames()
	all := make([]Count, len(names))
	// The file ends after the last name that was ever counted.
	_, derr := binary.Decode(append(b, make([]byte, binary.Size(all))...), binary.LittleEndian, all)
	out := make(map[string]Count, len(names))
	for i, name := range names {
		out[name] = all[i]
	}
	return out, errors.Join(err, derr)
}

// Refusal is an attachment that was refused.
type Refusal struct {
	At   time.Time    `json:"at"`
	Pod  hostport.Pod `json:"pod"`
	Text string       `json:"text"`
}

// AddRefusal records a refusal, for monitoring, if there is a state directory.
func AddRefusal(dir string, r Refusal) error {
	const most = 16 // are kept
	return writeBeside(dir, refusalsName, func(f *os.File) error {
		all, _ := Refusals(dir) // none if they cannot be read
		all = append(all, r)
		b, err := json.Marshal(all[max(0, len(all)-most):])
		_, werr := f.WriteAt(b, 0)
		return errors.Join(err, werr, f.Truncate(int64(len(b))))
	})
}

// Refusals returns the last refusals, oldest first. It takes no lock, and may
// fail while one is written.
func Refusals(dir string) (all []Refusal, err error) {
	b, err := os.ReadFile(filepath.Join(dir, refusalsName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("read refusals: %w", err)
	}
	return all, nil
}

// writeBeside calls fn to write a file beside the records, with a lock on that
// file alone. Without a directory it does nothing.
func writeBeside(dir, name string, fn func(*os.File) error) error {
	f, err := openIn(dir, name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
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
