package node

import (
	"slices"

	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// rest answers a backend's questions from the state.
type rest struct {
	*state.Store
	backend string
	except  []hostport.Key
	// session remembers for the backend; nil where nothing is changed.
	session *session
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

// Generation is the generation of the nf_tables ruleset that was remembered
// last, in this session or an earlier one of the same network namespace: each
// counts its own.
func (r *rest) Generation() (g uint32, err error) {
	if r.session.seen != 0 {
		return r.session.seen, nil
	}
	host, err := sandbox.Host()
	if err != nil {
		return 0, err
	}
	err = r.View(func(tx *state.Tx) error {
		g = tx.Seen(host)
		return nil
	})
	return g, err
}

// Remember keeps a generation until the end of the change notes it.
func (r *rest) Remember(g uint32) { r.session.seen = g }

// see notes the generation that a backend remembered, if any.
func (s *session) see(tx *state.Tx) error {
	if s.seen == 0 {
		return nil
	}
	host, err := sandbox.Host()
	if err != nil {
		return err
	}
	return tx.See(host, s.seen)
}
