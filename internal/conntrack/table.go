package conntrack

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// maxAttempts is how often a dump that was interrupted is made again.
const maxAttempts = 5

// find lists the entries that are to be removed, by a walk for each filter.
func (s socket) find(ctx context.Context, f hostport.Family, filters []int, has func(entry) bool) (all []entry, err error) {
	for _, by := range filters {
		found, filtered, err := s.walk(ctx, f, by, has)
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
func (s socket) walk(ctx context.Context, f hostport.Family, by int, has func(entry) bool) (found []entry, filtered bool, err error) {
	for range maxAttempts {
		found, filtered = nil, by != unfiltered
		err = s.dump(f, by).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(data []byte) bool {
			e := parseEntry(data)
			if e.protocol != hostport.UDP.Number() || by != anyPort && int(e.destination.Port()) != by {
				filtered = false
			}
			if has(e) {
				found = append(found, e.clone())
			}
			return ctx.Err() == nil
		})
		switch {
		case ctx.Err() != nil:
			return nil, false, ctx.Err()
		case err == nil:
			return found, filtered, nil
		case errors.Is(err, nl.ErrDumpInterrupted):
			continue // the table was rebuilt under the dump
		case by != unfiltered && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)):
			return s.walk(ctx, f, unfiltered, has)
		case errors.Is(err, unix.EINVAL):
			// The answer of nfnetlink for a subsystem that it does not have.
			err = fmt.Errorf("the kernel has no conntrack over netlink (CONFIG_NF_CT_NETLINK, module nf_conntrack_netlink): %w", err)
		}
		break
	}
	return nil, false, fmt.Errorf("list conntrack entries: %w", err)
}

// remove deletes the entries and counts those that were still there. One that
// cannot be deleted does not keep the others; the first such error is returned.
func (s socket) remove(ctx context.Context, f hostport.Family, entries []entry) (removed int, err error) {
	failed := 0
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		switch _, e := s.delete(f, e).Execute(unix.NETLINK_NETFILTER, 0); {
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
