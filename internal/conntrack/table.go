package conntrack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

const (
	// maxWalks is up to how many ports the kernel's table is walked once for
	// each; above, it is walked once for all UDP flows. Of 500,000 entries, all
	// UDP, a walk that finds nothing takes 160 ms of processor time and one that
	// hands out every entry 940 ms (BenchmarkFlush, Linux 6.18): the two cost the
	// same at six ports, and at three to four if half of the entries are UDP.
	maxWalks = 3
	// maxAttempts is how often a dump that was interrupted is made again.
	maxAttempts = 5
)

// find lists the entries that are to be removed.
func (s socket) find(ctx context.Context, w *wanted, by filterKind) ([]entry, error) {
	if by == byPort && len(w.ports) > maxWalks {
		by = byProtocol
	}
	if by != byPort {
		found, _, err := s.walk(ctx, w, by, 0)
		return found, err
	}
	var all []entry
	for _, port := range slices.Sorted(maps.Keys(w.ports)) {
		found, filtered, err := s.walk(ctx, w, by, port)
		if err != nil {
			return nil, err
		}
		if !filtered {
			return found, nil // a dump of everything has the other ports too
		}
		all = append(all, found...)
	}
	return all, nil
}

// walk dumps the table once and returns the entries that are to be removed. It
// reports whether the kernel filtered as told. Before Linux 5.8 it does not know
// the filter and dumps the whole family; a kernel that knows filters, but not
// this one, refuses, and is asked for the whole family then.
func (s socket) walk(ctx context.Context, w *wanted, by filterKind, port uint16) (found []entry, filtered bool, err error) {
	for range maxAttempts {
		found, filtered = nil, by != byFamily
		err = s.execute(dumpRequest(w.family, by, port), func(data []byte) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			e, err := parseEntry(data)
			if err != nil {
				return err
			}
			if by == byPort && e.port != port || e.protocol != hostport.UDP.Number() {
				filtered = false
			}
			if w.has(e) {
				found = append(found, e.clone())
			}
			return nil
		})
		switch {
		case err == nil:
			return found, filtered, ctx.Err()
		case errors.Is(err, nl.ErrDumpInterrupted):
			continue // the table was rebuilt under the dump
		case by != byFamily && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)):
			return s.walk(ctx, w, byFamily, 0)
		case errors.Is(err, unix.EINVAL):
			// The answer of nfnetlink for a subsystem that it does not have.
			return nil, false, fmt.Errorf("list conntrack entries: the kernel has no conntrack over netlink (CONFIG_NF_CT_NETLINK, module nf_conntrack_netlink): %w", err)
		default:
			return nil, false, fmt.Errorf("list conntrack entries: %w", err)
		}
	}
	return nil, false, fmt.Errorf("list conntrack entries: interrupted %d times: %w", maxAttempts, err)
}

// remove deletes the entries and counts those that were still there. One that
// cannot be deleted does not keep the others; the first such error is returned.
func (s socket) remove(ctx context.Context, entries []entry) (removed int, err error) {
	failed := 0
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		switch e := s.execute(deleteRequest(e), func([]byte) error { return nil }); {
		case e == nil:
			removed++
		case !errors.Is(e, unix.ENOENT): // else it went by itself
			failed++
			if err == nil {
				err = e
			}
		}
	}
	if failed > 0 {
		return removed, fmt.Errorf("delete %d of %d conntrack entries: %w", failed, len(entries), err)
	}
	return removed, nil
}
