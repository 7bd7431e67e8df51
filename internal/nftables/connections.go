package nftables

import (
	"context"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Connections reads the counters of the elements that lead to pods: chains of nat
// see the first packet of a connection alone.
func (b *Backend) Connections(ctx context.Context) (out []backend.Connections, err error) {
	have, err := b.read(ctx, func(set string) bool { return strings.HasPrefix(set, toPod) })
	for _, e := range only[element](have) {
		m, ok := e.hostSide()
		if owner := e.owner(); ok && owner != (hostport.Key{}) {
			c := backend.Connections{
				Owner: owner, Family: hostport.FamilyOf(m.HostIP),
				Protocol: m.Protocol, HostPort: m.HostPort, Number: e.packets,
			}
			if !m.Wildcard() {
				c.HostIP = m.HostIP
			}
			out = append(out, c)
		}
	}
	return out, err
}
