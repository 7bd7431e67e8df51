package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Connections reads the counters of the rules that translate: table nat sees the
// first packet of a connection alone.
func (b *Backend) Connections(ctx context.Context) (out []backend.Connections, err error) {
	err = eachFamily(func(f hostport.Family) error {
		variants, err := b.variants(ctx, f, false)
		errs := []error{err}
		for _, v := range variants {
			if !v.inUse() || !v.nft && !hasLegacy(f, natTable) {
				continue
			}
			text, err := b.counted(ctx, v)
			errs = append(errs, err)
			out = append(out, connections(f, text)...)
		}
		return errors.Join(errs...)
	})
	return out, err
}

// connections reads the output of iptables-save -c.
func connections(f hostport.Family, text string) (out []backend.Connections) {
	for line := range strings.Lines(text) {
		counters, rest, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "] ")
		if !ok || !strings.HasPrefix(rest, "-A "+prefix) {
			continue
		}
		var packets, octets uint64
		if _, err := fmt.Sscanf(counters, "[%d:%d", &packets, &octets); err != nil {
			continue
		}
		_, spec, err := parseRule(rest)
		if err != nil {
			continue
		}
		x, err := ParseFields(spec)
		if err != nil || x.Target != "DNAT" {
			continue
		}
		owner, ok := hostport.ParseTag(x.Comment)
		if !ok {
			continue
		}
		out = append(out, backend.Connections{
			Owner: owner.Key, Family: f, Protocol: x.Protocol, HostIP: x.Destination.Addr(), HostPort: x.Port, Number: packets,
		})
	}
	return out
}
