package nftables

import (
	"context"
	"errors"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Connections reads the counters of the elements that lead to pods: chains of nat
// see the first packet of a connection alone.
func (b *Backend) Connections(ctx context.Context) ([]backend.Connections, error) {
	var out []backend.Connections
	var errs []error
	for _, f := range hostport.Families() {
		for _, hostIP := range []bool{false, true} {
			set, _ := forwardMaps(f, hostIP)
			elements, err := b.dumpElements(ctx, set)
			errs = append(errs, err)
			for _, e := range elements {
				owner, tagged := hostport.ParseTag(e.comment)
				m, sided := e.hostSide()
				if !tagged || !sided {
					continue
				}
				c := backend.Connections{Owner: owner.Key, Family: f, Protocol: m.Protocol, HostPort: m.HostPort, Number: e.packets}
				if hostIP {
					c.HostIP = m.HostIP
				}
				out = append(out, c)
			}
		}
	}
	return out, errors.Join(errs...)
}
