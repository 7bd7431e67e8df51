package node

import (
	"errors"
	"time"

	"github.com/hostport-cni/hostport/internal/state"
)

// CountRequest counts a call of the runtime's, by its verb and by what became of
// it, for whoever watches the node. A call that cannot be counted does not fail.
func (n *Node) CountRequest(verb, result string, took time.Duration) {
	n.count(verb+"/"+result, took)
}

// countConflict counts the refusal of an attachment, by the kind of what it is
// in conflict with.
func (n *Node) countConflict(err error) {
	if conflict, ok := errors.AsType[*ConflictError](err); ok {
		kind := "port"
		if conflict.Address.IsValid() {
			kind = "address"
		}
		n.count("conflict/"+kind, 0)
	}
	if _, ok := errors.AsType[*ListeningError](err); ok {
		n.count("conflict/listener", 0)
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
