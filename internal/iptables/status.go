package iptables

import (
	"context"
	"fmt"

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
		if err := b.probe(ctx, f); err != nil {
			return advice, fmt.Errorf("%s: %w", f, err)
		}
	}
	return advice, nil
}

// probe has the tool open and commit the table, with nothing in it to do. It
// does not list what is there: runtimes ask for STATUS every few seconds, and
// the list of a node with thousands of Services takes a tenth of one.
func (b *Backend) probe(ctx context.Context, f hostport.Family) error {
	if _, err := lookPath(saveTool(f)); err != nil {
		return err
	}
	return b.restore(ctx, f, "*"+natTable+"\nCOMMIT\n")
}
