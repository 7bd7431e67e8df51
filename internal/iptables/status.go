package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Status tells whether the tools and the nat table can be used: those of IPv4
// always, those of IPv6 where the node has IPv6.
func (b *Backend) Status(ctx context.Context) (advice []string, err error) {
	if err := Available(); err != nil {
		return nil, err
	}
	for _, f := range hostport.Families() {
		if !enabled(f) {
			continue
		}
		if _, err := lookPath(restoreTool(f)); err != nil {
			// Mappings of pods that have no IPv6 address work all the same.
			advice = append(advice, fmt.Sprintf("%s host ports cannot be programmed: %v", f, err))
			continue
		}
		remarks, err := b.probe(ctx, f)
		if err != nil {
			return advice, fmt.Errorf("%s: %w", f, err)
		}
		advice = append(advice, remarks...)
	}
	return advice, nil
}

// probe has the tools list the tables and commit nat with nothing to do.
func (b *Backend) probe(ctx context.Context, f hostport.Family) (advice []string, err error) {
	there, err := b.save(ctx, f)
	switch {
	case errors.Is(err, errUnlisted):
		advice = append(advice, fmt.Sprintf("%s host ports that others flush cannot be restored: %v", f, err))
	case err != nil:
		return nil, err
	case strings.Contains(there.remarks, "legacy tables present"):
		advice = append(advice, fmt.Sprintf("%s: there are tables of iptables-legacy beside those of iptables-nft, and the order between their rules and host ports is not defined", f))
	}
	return advice, b.restore(ctx, f, "*"+natTable+"\nCOMMIT\n")
}
