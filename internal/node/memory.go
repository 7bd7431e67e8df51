package node

import (
	"errors"

	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
)

// memory is a backend's, in this session and those after it. It belongs to the
// network namespace that the process runs in: each has rules of its own.
type memory struct {
	*session
	backend string
}

func (m memory) Recall(key string) (word string, err error) {
	key = m.backend + "/" + key
	if word, ok := m.words[key]; ok {
		return word, nil
	}
	host, err := sandbox.Host()
	if err != nil {
		return "", err
	}
	err = m.View(func(tx *state.Tx) error {
		word = tx.Word(host, key)
		return nil
	})
	return word, err
}

// Remember keeps a word until note puts it into the state.
func (m memory) Remember(key, word string) { m.words[m.backend+"/"+key] = word }

// note puts into the state what backends remembered.
func (s *session) note(tx *state.Tx) error {
	if len(s.words) == 0 {
		return nil
	}
	host, err := sandbox.Host()
	if err != nil {
		return err
	}
	var errs []error
	for key, word := range s.words {
		errs = append(errs, tx.SetWord(host, key, word))
	}
	return errors.Join(errs...)
}
