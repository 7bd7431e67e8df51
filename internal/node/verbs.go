package node

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/listener"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Add records the attachment and programs its mappings. It is idempotent: an
// attachment that exists already is replaced. On a node without state the pods that
// portmap served in its network are adopted first. Ports of owners whose sandbox is
// gone, and of an earlier sandbox of the same pod, are taken over. A port or
// address of another living owner is a *ConflictError, and so is, with
// denyListeners, a port on which a process of the node listens.
func (n *Node) Add(ctx context.Context, want *hostport.Attachment, denyListeners bool) error {
	n.adoptFirst(ctx, want.Network)
	var err error
	if denyListeners {
		var found []listener.Listener
		if found, err = listener.Find(want.Mappings); len(found) > 0 {
			var all []string
			for _, l := range found {
				all = append(all, l.String())
			}
			err = &ConflictError{KindListener, errors.New("a process on the node already listens: " + strings.Join(all, "; "))}
		}
	}
	if err == nil {
		err = n.addOne(ctx, want)
	}
	if c, ok := errors.AsType[*ConflictError](err); ok {
		n.Count("conflict/"+c.Kind, 0)
		if err := state.AddRefusal(n.Dir, state.Refusal{At: time.Now(), Pod: want.Pod, Text: err.Error()}); err != nil {
			n.Log.Debug("refusal not noted", "reason", err)
		}
	}
	return err
}

func (n *Node) addOne(ctx context.Context, want *hostport.Attachment) error {
	want.LoopbackInterface = n.loopbackInterface(want)
	return n.change(ctx, func(s *session) error {
		want.Boot, want.State = s.boot, s.state
		err := s.add(ctx, want)
		if errors.Is(err, backend.ErrNoGuard) && want.LoopbackInterface != "" {
			s.Log.Warn("127.0.0.1 will not reach the pod: 127.0.0.0/8 cannot be guarded", "owner", want.Owner(), "reason", err)
			want.LoopbackInterface = ""
			return s.add(ctx, want)
		}
		return err
	})
}

func (s *session) add(ctx context.Context, want *hostport.Attachment) error {
	var p plan
	err := s.apply(ctx, func(tx *state.Tx) (plan, error) {
		found, err := tx.Neighbours(want)
		if err != nil {
			return plan{}, err
		}
		p, err = planAdd(want, found, s.dead)
		return p, err
	})
	if err != nil {
		return err
	}
	for _, a := range p.remove {
		if a.Key != want.Key {
			s.Count("takeover", 0)
			s.Log.Warn("took over from an owner that is gone", "owner", a.Owner(), "since", a.AddedAt)
		}
	}
	return nil
}

// Delete removes an attachment and returns its record, or nil. The key alone
// identifies it, and an attachment without a record is no error. On a node
// without state it does nothing, unless the attachment is known to have had
// mappings (mapped): then the state was lost and is read back from the kernel, or
// portmap served the network until now and its pods are adopted.
func (n *Node) Delete(ctx context.Context, k hostport.Key, network string, mapped bool) (removed *hostport.Attachment, err error) {
	if !state.Exists(n.Dir) {
		if !mapped {
			return nil, nil
		}
		n.adoptFirst(ctx, network)
		// No state is created for a pod whose ADD failed, on a full disk for instance.
		if owners, unread := n.owners(ctx); len(owners)+len(unread) == 0 && !state.Exists(n.Dir) {
			return nil, nil
		}
	}
	err = n.change(ctx, func(s *session) error {
		return s.apply(ctx, func(tx *state.Tx) (plan, error) {
			a, err := tx.Get(k)
			if err != nil || a == nil {
				return plan{}, err // also if a resync has dropped it meanwhile
			}
			removed = a
			return plan{remove: []*hostport.Attachment{a}}, nil
		})
	})
	return removed, err
}

// Forget removes what an earlier ADD recorded for an attachment that now has no
// mappings, and returns it, or nil. For a container that the state does not mention, it
// only reads the file, and waits for no other call.
func (n *Node) Forget(ctx context.Context, k hostport.Key) (removed *hostport.Attachment, err error) {
	if !state.Mentions(n.Dir, k.ContainerID) {
		return nil, nil
	}
	return n.Delete(ctx, k, "", false)
}

// GC removes, in one change, the network's attachments that are not among valid. Without
// such a list, or if the network of an attachment is unknown because the state was once
// lost, it removes only those whose sandbox is gone.
func (n *Node) GC(ctx context.Context, network string, valid []hostport.Key, listed bool) error {
	_, err := n.remove(ctx, func(s *session, records []*hostport.Attachment) (plan, error) {
		return planGC(records, network, valid, listed, s.dead)
	})
	return err
}

// Prune removes, in one change, every attachment whose sandbox is gone, because its DEL
// never came; with keys, only of those among them. It returns what it removed. A
// process that may not see the node's sandboxes gets an error that wraps ErrUnseen.
func (n *Node) Prune(ctx context.Context, among ...hostport.Key) ([]*hostport.Attachment, error) {
	if err := n.hasState(ctx); err != nil {
		return nil, err
	}
	return n.remove(ctx, func(s *session, records []*hostport.Attachment) (plan, error) {
		return planPrune(records, among, s.sight, s.dead)
	})
}

// remove carries out a plan that only removes records, in one change, and returns those
// records.
func (n *Node) remove(ctx context.Context, build func(*session, []*hostport.Attachment) (plan, error)) (removed []*hostport.Attachment, err error) {
	err = n.change(ctx, func(s *session) error {
		return s.apply(ctx, func(tx *state.Tx) (plan, error) {
			records, _, err := tx.Records()
			if err != nil {
				return plan{}, err
			}
			p, err := build(s, records)
			if len(p.remove) > 0 { // else a resync has dropped them before this second try
				removed = p.remove
			}
			return p, err
		})
	})
	return removed, err
}
