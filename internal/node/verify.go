package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/loopback"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Snapshot is what was recorded at one moment.
type Snapshot struct {
	// Attachments are ordered by key. They are not to be changed.
	Attachments []*hostport.Attachment
	// Pending are the backends whose rules an interrupted call left to be
	// rewritten, or that could not be rewritten.
	Pending []string
	// Rewritten is when rules were last written as a whole, by a recovery of the
	// plugin's, the agent or hostportctl sync: the zero Time if never.
	Rewritten time.Time

	version      version
	view         state.View
	fingerprints map[string]hostport.Fingerprint // by backend
}

// version is that of the records. It is another one also if they changed and changed
// back: a pod may have come and gone.
type version struct {
	id   string
	file int
}

// Same reports whether both have the same records. Either may be nil.
func (s *Snapshot) Same(o *Snapshot) bool {
	return s != nil && o != nil && s.version == o.version
}

// Snapshot reads the records. It holds the lock for as long as it reads, which
// is shorter if nothing has changed since before, which may be nil. On a node
// without state there are none.
func (n *Node) Snapshot(ctx context.Context, before *Snapshot) (out *Snapshot, err error) {
	if !state.Exists(n.Dir) {
		return &Snapshot{}, nil
	}
	err = n.with(ctx, func(s *session) error {
		out, err = s.snapshot(before)
		return err
	})
	return out, err
}

func (s *session) snapshot(before *Snapshot) (*Snapshot, error) {
	out := &Snapshot{fingerprints: make(map[string]hostport.Fingerprint)}
	err := s.View(func(tx *state.Tx) error {
		pending, err := tx.Pending()
		if err != nil {
			return err
		}
		if pending != nil {
			out.Pending = pending.Backends
		}
		out.version = version{tx.ID(), tx.Version()}
		out.view, out.Rewritten = tx.View(), tx.Rewritten()
		for _, name := range backend.Names() {
			if out.fingerprints[name], err = tx.Fingerprint(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if out.Same(before) {
		return before, nil
	}
	out.Attachments, err = s.records()
	return out, err
}

// verifyTries is how often Verify reads the kernel beside calls that change it.
const verifyTries = 3

// Verify compares the kernel with the records, as Audit does, but holds no lock
// while it reads the kernel: no call waits for it. found has the differences of
// the backends that differ, and a nil one for those that were read and are
// right; err joins why others could not be read. The Snapshot is never nil.
func (n *Node) Verify(ctx context.Context, before *Snapshot) (s *Snapshot, found map[string][]Difference, err error) {
	if s, err = n.Snapshot(ctx, before); err != nil {
		return &Snapshot{}, nil, err
	}
	for range verifyTries {
		found, err = n.compare(ctx, s)
		after, snapErr := n.Snapshot(ctx, s)
		if snapErr != nil {
			return s, nil, snapErr
		}
		if after.Same(s) {
			return s, found, err
		}
		s = after
	}
	// Pods come and go all the time. Each of their calls would notice drift.
	return s, nil, fmt.Errorf("compare the rules: %w", errRestless)
}

var errRestless = errors.New("the records changed each time while the kernel was read")

// Restless reports whether an error means that a later try will do.
func Restless(err error) bool { return errors.Is(err, errRestless) || Busy(err) }

// Interrupted is the Text of a Difference: a call was killed, or failed, in the
// middle of a change.
const Interrupted = "the rules are to be rewritten: a call was interrupted"

// compare reads the kernel for what a Snapshot has.
func (n *Node) compare(ctx context.Context, s *Snapshot) (map[string][]Difference, error) {
	out := make(map[string][]Difference)
	var errs []error
	for _, name := range backend.Names() {
		mine := of(name, s.Attachments)
		found, err := n.backends()[name].Audit(ctx, mine, s.fingerprints[name])
		if err != nil && !errors.Is(err, backend.ErrMissing) {
			errs = append(errs, fmt.Errorf("check the rules of backend %s: %w", name, err))
			continue
		}
		var differences []Difference
		if err != nil && len(mine) > 0 {
			differences = append(differences, Difference{Text: fmt.Sprintf("backend %s: %v", name, err)})
		}
		if slices.Contains(s.Pending, name) {
			differences = append(differences, Difference{Text: Interrupted})
		}
		byKey := make(map[hostport.Key]*hostport.Attachment)
		for _, a := range mine {
			byKey[a.Key] = a
		}
		for _, d := range found {
			differences = append(differences, Difference{Attachment: byKey[d.Owner], Text: d.Text})
		}
		out[name] = append(differences, closedInterfaces(mine)...)
	}
	return out, errors.Join(errs...)
}

// closedInterfaces returns the attachments that 127.0.0.1 does not reach. One
// whose interface is gone will soon follow it.
func closedInterfaces(all []*hostport.Attachment) (out []Difference) {
	closed := map[string]error{"": nil}
	for _, a := range all {
		err, known := closed[a.LoopbackInterface]
		if !known {
			err = loopback.Check(a.LoopbackInterface)
			closed[a.LoopbackInterface] = err
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			out = append(out, Difference{Attachment: a, Text: err.Error()})
		}
	}
	return out
}
