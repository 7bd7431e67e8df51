package node

import (
	"context"
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/internal/listener"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// State is how a mapping is doing.
type State string

// The states, the one that matters most last.
const (
	OK State = "ok"
	// Shadowed says that a process of the node listens on the host port: what it
	// waits for goes to the pod.
	Shadowed State = "shadowed"
	// ServiceFirst says that kube-proxy leads packets for the host port to a
	// Service. States, which knows no rules of others, does not tell.
	ServiceFirst State = "service first"
	// OutOfSync says that the rules in the kernel are not as recorded.
	OutOfSync State = "out of sync"
	// Dead says that the sandbox is gone.
	Dead State = "dead"
)

// States looks at the node for how each of the mappings is doing. The function that it
// returns knows every attachment that is recorded. With an error there is none.
// No call waits for it: the kernel is read without the lock.
func (n *Node) States(ctx context.Context, mappings []hostport.Mapping) (func(hostport.Key, hostport.Mapping) State, error) {
	snapshot, differences, err := n.Verify(ctx, nil)
	if err != nil {
		return nil, err
	}
	dead, err := n.Dead(snapshot)
	if err != nil && !Unseen(err) {
		return nil, err
	}
	attachments := make(map[hostport.Key]State)
	for _, found := range differences {
		for _, d := range found {
			if d.Attachment != nil {
				attachments[d.Attachment.Key] = OutOfSync
			}
		}
	}
	for _, k := range dead {
		attachments[k] = Dead
	}
	listeners, err := listener.Find(ctx, mappings)
	if err != nil {
		return nil, fmt.Errorf("look for listeners on the node: %w", err)
	}
	return func(k hostport.Key, m hostport.Mapping) State {
		if s, found := attachments[k]; found {
			return s
		}
		if slices.ContainsFunc(listeners, func(l listener.Listener) bool { return l.Mapping == m }) {
			return Shadowed
		}
		return OK
	}, nil
}
