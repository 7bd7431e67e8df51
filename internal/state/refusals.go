package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// refusalsName is the file with the last refusals. It may be lost.
const refusalsName = "refusals"

// maxRefusals is how many are kept.
const maxRefusals = 16

// Refusal is an attachment that was refused.
type Refusal struct {
	At   time.Time    `json:"at"`
	Pod  hostport.Pod `json:"pod"`
	Text string       `json:"text"`
}

// AddRefusal records a refusal, for monitoring. Without a state directory it does
// nothing, which is no error.
func AddRefusal(dir string, r Refusal) error {
	return writeBeside(dir, refusalsName, func(f *os.File) error {
		all, _ := Refusals(dir) // none if they cannot be read
		all = append(all, r)
		b, err := json.Marshal(all[max(0, len(all)-maxRefusals):])
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
