package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Snapshot is the records at one moment.
type Snapshot struct {
	// Attachments are ordered by key. Callers must not change them.
	Attachments []*hostport.Attachment
	// Rewritten is when all rules were last rewritten, by a recovery in the plugin,
	// the agent or hostportctl sync; the zero Time if never.
	Rewritten time.Time
	// Other says why the records are not this program's, or is nil. They are of another
	// version, or they were of an earlier boot, so that there are none.
	Other error

	sight
	// version identifies the records. It differs even if they changed and changed
	// back, for instance if a pod came and went. It is "" without state.
	version      string
	pending      []string                        // backends whose rules must be rewritten
	fingerprints map[string]hostport.Fingerprint // by backend
}

// Foreign reports whether there are records of another version, for which this
// program does not know the right rules.
func (s *Snapshot) Foreign() bool { return s.Other != nil && len(s.Attachments) > 0 }

// Dead returns the attachments whose sandbox is gone. It leaves out those for which that
// cannot be determined. The error is ErrUnseen if it cannot be determined for any.
func (s *Snapshot) Dead() (dead []hostport.Key, err error) {
	for _, a := range s.Attachments {
		if !s.sight {
			return nil, ErrUnseen
		}
		if gone, _ := s.dead(a); gone {
			dead = append(dead, a.Key)
		}
	}
	return dead, nil
}

// Snapshot reads the records and holds the lock meanwhile. If nothing has changed
// since the snapshot before, which may be nil, it returns that one and reads no
// record. A node without state has none. On error it returns before too, or an empty one.
func (n *Node) Snapshot(ctx context.Context, before *Snapshot) (out *Snapshot, err error) {
	return n.look(ctx, before, func(*session, *Snapshot) error { return nil })
}

// look is Snapshot, and calls fn with the records before it releases the lock, unless there
// is no state file, or a void one.
func (n *Node) look(ctx context.Context, before *Snapshot, fn func(*session, *Snapshot) error) (out *Snapshot, err error) {
	out = &Snapshot{}
	if !state.Exists(n.Dir) {
		return out, nil
	}
	out = cmp.Or(before, out)
	err = n.with(ctx, func(s *session) error {
		now, err := s.snapshot(before)
		if err != nil {
			return err
		}
		out = now
		return fn(s, out)
	})
	if other, ok := errors.AsType[*state.OtherError](err); ok && n.ReadOnly { // and void
		return &Snapshot{Other: other, version: other.Error()}, nil
	}
	if errors.Is(err, state.ErrDamaged) && n.ReadOnly {
		err = fmt.Errorf("records in %s: %w; the next ADD or DEL of a pod with host ports rebuilds them from the rules, or `hostportctl sync`", n.Dir, err)
	}
	return out, err
}

// List returns the records, as Snapshot does. Without state the error is a *NoStateError.
func (n *Node) List(ctx context.Context) (*Snapshot, error) {
	s, err := n.Snapshot(ctx, nil)
	if err == nil && s.version == "" {
		err = &NoStateError{Dir: n.Dir}
	}
	return s, err
}

func (s *session) snapshot(before *Snapshot) (*Snapshot, error) {
	return read(s.Store, func(tx *state.Tx) (*Snapshot, error) {
		out := &Snapshot{
			sight: s.sight, version: tx.Version(), pending: s.pending.Backends,
		}
		out.Rewritten, _ = time.Parse(time.RFC3339, tx.Text(state.KeyRewritten)) // zero if never
		if s.Other != nil {
			out.Other = fmt.Errorf("%w; use the hostportctl of the plugin's version: `hostportctl sync` of another converts them to its own form", s.Other)
		}
		if before != nil && before.version == out.version {
			return before, nil
		}
		var err error
		out.Attachments, out.fingerprints, err = tx.Records()
		return out, err
	})
}

// Verify compares the kernel with the records, as Audit does, but holds no lock
// while it reads the kernel: no call waits for it. found has the differences of
// each backend that was read, nil if there are none; err joins the errors of the
// others.
func (n *Node) Verify(ctx context.Context, before *Snapshot) (s *Snapshot, found map[string][]Difference, err error) {
	if s, err = n.Snapshot(ctx, before); err != nil {
		return s, nil, err
	}
	for range 3 { // calls may change the node meanwhile
		found, err = n.compare(ctx, s)
		after, snapErr := n.Snapshot(ctx, s)
		if snapErr != nil {
			return s, nil, snapErr
		}
		if after.version == s.version {
			return s, found, err
		}
		s = after
	}
	// Pods come and go all the time. Each of their calls would notice drift.
	return s, nil, fmt.Errorf("compare the rules: %w", errRestless)
}

var errRestless = errors.New("the records changed each time while the kernel was read")

// Restless reports whether an error means that a later try may succeed.
func Restless(err error) bool { return errors.Is(err, errRestless) || Busy(err) }

// Difference is one way in which the node differs from the records.
type Difference struct {
	// Attachment is the attachment concerned, nil if it is all of them or none.
	Attachment *hostport.Attachment
	Text       string
	// Dead is set if the difference is that the attachment's sandbox is gone.
	Dead bool
	// Shared is the backend, if the difference concerns what all its attachments
	// need, or "".
	Shared string
}

// String returns the text, after the owner if there is one.
func (d Difference) String() string {
	if d.Attachment == nil {
		return d.Text
	}
	return d.Attachment.Owner() + ": " + d.Text
}

// Interrupted is the Text of a Difference if a call was killed, or failed, in the
// middle of a change.
const Interrupted = "the rules are to be rewritten: a call was interrupted"

// compare compares the kernel with a Snapshot.
func (n *Node) compare(ctx context.Context, s *Snapshot) (map[string][]Difference, error) {
	out := make(map[string][]Difference)
	if s.Foreign() {
		return out, nil
	}
	failed := n.eachBackend("check the rules", func(name string, b backend.Backend) error {
		mine := of(name, s.Attachments)
		found, err := b.Audit(ctx, mine, s.fingerprints[name])
		if err != nil && !errors.Is(err, backend.ErrMissing) {
			return err
		}
		out[name] = nil
		differs := func(a *hostport.Attachment, text, shared string) {
			out[name] = append(out[name], Difference{Attachment: a, Text: text, Shared: shared})
		}
		if err != nil && len(mine) > 0 {
			differs(nil, fmt.Sprintf("backend %s: %v", name, err), name)
		}
		if slices.Contains(s.pending, name) {
			differs(nil, Interrupted, name)
		}
		for _, d := range found {
			shared := ""
			if d.Shared {
				shared = name
			}
			differs(find(mine, d.Owner), d.Text, shared)
		}
		for _, a := range mine {
			// A pod without its interface will soon be gone too.
			if err := checkInterface(a); err != nil && !errors.Is(err, fs.ErrNotExist) {
				differs(a, err.Error(), "")
			}
		}
		return nil
	})
	return out, failed.join()
}
