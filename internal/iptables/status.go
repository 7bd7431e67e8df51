package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Status returns an error if IPv4 host ports cannot be programmed. If only those
// of IPv6 cannot, that is advice, because IPv4 works without. An xtables lock
// held by another program is no error.
func (b *Backend) Status(ctx context.Context) (advice []string, err error) {
	for _, f := range hostport.Families() {
		if _, err := os.Stat("/proc/sys/net/ipv6"); f == hostport.IPv6 && err != nil {
			continue // the kernel does not support it
		}
		more, err := b.probe(ctx, f)
		if err != nil && f == hostport.IPv6 {
			more, err = append(more, fmt.Sprintf("host ports cannot be programmed: %v", err)), nil
		}
		for _, text := range more {
			advice = append(advice, f.String()+": "+text)
		}
		if err != nil {
			return advice, &backend.FamilyError{Family: f, Err: err}
		}
	}
	return advice, nil
}

// probe has the tool open and commit the tables without a change. It does not list
// them: runtimes ask for STATUS every few seconds, and listing a node with thousands
// of Services takes 0.1 s. Tables of the legacy variant are probed without the tool,
// which would wait for the xtables lock.
func (b *Backend) probe(ctx context.Context, f hostport.Family) (advice []string, err error) {
	v, err := b.current(ctx, f)
	if err != nil {
		return nil, err
	}
	if v.minor >= 0 && v.minor < backend.OldestIptables {
		advice = append(advice, fmt.Sprintf("iptables 1.8.%d is older than 1.8.%d, the oldest that hostport is tested with: "+
			"before 1.8.5 only iptables-legacy can change single chains", v.minor, backend.OldestIptables))
	}
	if v.nft && hasLegacy(f, natTable) {
		advice = append(advice, "tables of iptables-legacy are loaded beside those of iptables-nft: should they hold rules, their order with host ports is not defined")
	}
	text := "" // nat first: without raw the tool stops
	for _, table := range tablesOf(f) {
		if v.nft || entries(f, table, func([]byte) {}) != nil {
			text = "*" + table + "\nCOMMIT\n" + text
		}
	}
	err = b.restore(ctx, v.restore(), text, time.Second)
	switch {
	case errors.Is(err, backend.ErrBusy):
		err = nil
	case errors.Is(err, backend.ErrNoGuard):
		advice, err = append(advice, "the kernel has no table raw: host ports are not reachable at 127.0.0.1"), nil
	}
	return advice, err
}
