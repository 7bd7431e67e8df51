package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/hostport-cni/hostport/internal/backend"
)

// Connections returns how many connections the kernel has sent to each mapping
// since its rules were written. With an error it returns what could be read. It
// takes no lock.
func (n *Node) Connections(ctx context.Context) (all []backend.Connections, err error) {
	var errs []error
	for _, name := range backend.Names() {
		found, err := n.backends()[name].Connections(ctx)
		if err != nil && !errors.Is(err, backend.ErrMissing) {
			errs = append(errs, fmt.Errorf("read the counters of backend %s: %w", name, err))
		}
		all = append(all, found...)
	}
	return all, errors.Join(errs...)
}
