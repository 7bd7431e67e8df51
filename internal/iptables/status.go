package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// singleChainsMinor is N in the first version 1.8.N of the nf_tables variant whose
// restore takes single chains under --noflush.
const singleChainsMinor = 5

// Status reports why IPv4 host ports cannot be programmed. That those of IPv6
// cannot is advice: IPv4 works without. Another program that holds the xtables
// lock is no error.
func (b *Backend) Status(ctx context.Context) (advice []string, err error) {
	for _, f := range hostport.Families() {
		if !enabled(f) {
			continue
		}
		more, err := b.probe(ctx, f)
		advice = append(advice, more...)
		switch {
		case err == nil:
		case f == hostport.IPv4:
			return advice, fmt.Errorf("%s: %w", f, err)
		default:
			advice = append(advice, fmt.Sprintf("%s host ports cannot be programmed: %v", f, err))
		}
	}
	return advice, nil
}

// enabled reports whether the kernel speaks the family: IPv6 can be off.
func enabled(f hostport.Family) bool {
	if f == hostport.IPv4 {
		return true
	}
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// probe has the tool open and commit the tables, with nothing in it to do. It
// does not list them: runtimes ask for STATUS every few seconds, and the list of
// a node with thousands of Services takes a tenth of one.
func (b *Backend) probe(ctx context.Context, f hostport.Family) (advice []string, err error) {
	v, err := b.current(ctx, f)
	if err != nil {
		return nil, err
	}
	if v.minor >= 0 && v.minor < backend.OldestIptables {
		advice = append(advice, fmt.Sprintf("%s: iptables 1.8.%d is older than 1.8.%d, the oldest that hostport is tested with", f, v.minor, backend.OldestIptables))
	}
	if v.nft && v.minor >= 0 && v.minor < singleChainsMinor {
		advice = append(advice, fmt.Sprintf("%s: iptables 1.8.%d (nf_tables) may not be able to change single chains: install a newer version, or use iptables-legacy", f, v.minor))
	}
	if v.nft && hasLegacy(f, natTable) {
		advice = append(advice, fmt.Sprintf("%s: tables of iptables-legacy are loaded beside those of iptables-nft: should they hold rules, their order with host ports is not defined", f))
	}
	text := "*" + natTable + "\nCOMMIT\n"
	if f == hostport.IPv4 {
		text += "*" + rawTable + "\nCOMMIT\n"
	}
	switch err := b.restore(ctx, v.restore(), text, shortWait); {
	case errors.Is(err, backend.ErrBusy):
		return advice, nil
	case errors.Is(err, backend.ErrNoGuard):
		return append(advice, fmt.Sprintf("%s: the kernel has no table raw: host ports are not reachable at 127.0.0.1", f)), nil
	default:
		return advice, err
	}
}
