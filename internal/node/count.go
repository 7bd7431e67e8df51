package node

import (
	"errors"
	"time"

	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// CountRequest counts a call of the runtime's, by its verb and by what became of
// it, for whoever watches the node. A call that cannot be counted does not fail.
func (n *Node) CountRequest(verb, result string, took time.Duration) {
	n.count(verb+"/"+result, took)
}

// refused counts the refusal of an attachment, by the kind of what it is in
// conflict with, and notes it.
func (n *Node) refused(want *hostport.Attachment, err error) {
	kind := ""
	if conflict, ok := errors.AsType[*ConflictError](err); ok {
		kind = "port"
		if conflict.Address.IsValid() {
			kind = "address"
		}
	}
	if _, ok := errors.AsType[*ListeningError](err); ok {
		kind = "listener"
	}
	if kind == "" {
		return
	}
	n.count("conflict/"+kind, 0)
	if err := state.AddRefusal(n.Dir, state.Refusal{At: time.Now(), Pod: want.Pod, Text: err.Error()}); err != nil {
		n.Log.Debug("refusal not noted", "reason", err)
	}
}

func (n *Node) count(name string, took time.Duration) {
	if err := state.AddCount(n.Dir, name, took); err != nil {
		n.Log.Debug("not counted", "name", name, "reason", err)
	}
}

// RemoveState removes the state. It is for the end of an installation, when no
// attachment is left.
func (n *Node) RemoveState() error { return state.Remove(n.Dir) }

// Counts returns what was counted: calls as VERB/RESULT, conflicts as
// conflict/KIND, and takeover. It takes no lock.
func (n *Node) Counts() (map[string]state.Count, error) { return state.Counts(n.Dir) }

// Refusals returns the attachments that were refused last, in order, and what
// identifies this answer. They are nil if since is that of now. It takes no lock.
func (n *Node) Refusals(since string) (all []state.Refusal, version string, err error) {
	if version = state.RefusalsVersion(n.Dir); version == "" || version == since {
		return nil, version, nil
	}
	all, err = state.Refusals(n.Dir)
	return all, version, err
}
