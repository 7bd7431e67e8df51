package node

import (
	"slices"

	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// rest answers a backend's questions from the state.
type rest struct {
	*state.Store
	backend string
	except  []hostport.Key
}

func (r *rest) Uses(share string) (used bool, err error) {
	err = r.View(func(tx *state.Tx) error {
		used, err = tx.Uses(state.Share{Of: r.backend, Name: share}, r.except)
		return err
	})
	return used, err
}

func (r *rest) All() (all []*hostport.Attachment, err error) {
	err = r.View(func(tx *state.Tx) error {
		all = nil
		return tx.All(func(rec *state.Record) error {
			if rec.Backend == r.backend && !slices.Contains(r.except, rec.Key) {
				all = append(all, &rec.Attachment)
			}
			return nil
		})
	})
	return all, err
}
