package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	At time.Time `json:"at"`
	// Pod is that of the attachment.
	Pod hostport.Pod `json:"pod"`
	// Text says why.
	Text string `json:"text"`
}

// AddRefusal notes a refusal, for whoever watches the node. Without a state
// directory there is nothing to note it in, which is no error.
func AddRefusal(dir string, r Refusal) error {
	return writeBeside(dir, refusalsName, func(f *os.File) error {
		all, _ := readRefusals(f) // of what cannot be read nothing is kept
		all = append(all, r)
		b, err := json.Marshal(all[max(0, len(all)-maxRefusals):])
		if err == nil {
			err = f.Truncate(0)
		}
		if err == nil {
			_, err = f.WriteAt(b, 0)
		}
		return err
	})
}

// Refusals returns the last refusals, in order. While one is written there may be
// an error.
func Refusals(dir string) ([]Refusal, error) {
	f, err := os.Open(filepath.Join(dir, refusalsName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readRefusals(f)
}

func readRefusals(f io.Reader) (out []Refusal, err error) {
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil || len(b) == 0 {
		return nil, err
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("read refusals: %w", err)
	}
	return out, nil
}

// RefusalsVersion changes whenever a refusal is noted. It is "" while there is
// none.
func RefusalsVersion(dir string) string {
	fi, err := os.Stat(filepath.Join(dir, refusalsName))
	if err != nil {
		return ""
	}
	return fmt.Sprint(fi.ModTime().UnixNano(), fi.Size())
}
