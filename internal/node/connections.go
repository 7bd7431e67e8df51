package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/iptables"
	"github.com/hostport-cni/hostport/internal/nftables"
)

// Connections returns how many connections the kernel has sent to each mapping
// since its rules were written. With an error it returns what could be read. It
// takes no lock.
func (n *Node) Connections(ctx context.Context) ([]backend.Connections, error) {
	there, err := iptables.New(iptables.Options{Wait: n.Timeout, Log: n.Log}).Connections(ctx)
	if err != nil && !errors.Is(err, backend.ErrMissing) {
		err = fmt.Errorf("read the counters of backend %s: %w", backend.Iptables, err)
	} else {
		err = nil
	}
	more, nftErr := nftables.New(nftables.Options{Log: n.Log}).Connections(ctx)
	if nftErr != nil {
		nftErr = fmt.Errorf("read the counters of backend %s: %w", backend.Nftables, nftErr)
	}
	return append(there, more...), errors.Join(err, nftErr)
}
