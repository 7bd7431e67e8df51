package iptables

import (
	"context"
	"errors"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Connections reads the counters of the rules that translate: table nat sees the
// first packet of a connection alone.
func (b *Backend) Connections(ctx context.Context) (out []backend.Connections, err error) {
	err = eachFamily(func(f hostport.Family) error {
		variants, err := b.variants(ctx, f, false)
		for _, v := range variants {
			if v.inUse() {
				there, readErr := b.read(ctx, v, true)
				err = errors.Join(err, readErr)
				out = append(out, connections(f, there.of(natTable))...)
			}
		}
		return err
	})
	return out, err
}

// connections reads the rules of ours in table nat, with counters.
func connections(f hostport.Family, t *table) (out []backend.Connections) {
	for _, chain := range t.chains {
		if !ours(chain) {
			continue
		}
		for _, spec := range t.rules[chain] {
			x := ParseFields(spec)
			if owner, ok := hostport.ParseTag(x.Comment); ok && x.Target == "DNAT" {
				out = append(out, backend.Connections{
					Owner: owner.Key, Family: f, Protocol: x.Protocol, HostIP: x.Destination.Addr(), HostPort: x.Port, Number: x.Packets,
				})
			}
		}
	}
	return out
}
