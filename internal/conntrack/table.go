package conntrack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

const (
	// maxWalks is up to how many ports the kernel's table is walked once for
	// each; above, it is walked once for all UDP flows. Of 500,000 entries, all
	// UDP, a walk that finds nothing takes 230 ms of processor time and one that
	// hands out every entry 1,000 ms; were half of them UDP, 600 ms
	// (BenchmarkFlush, Linux 6.18). So the two cost the same at three to four
	// ports.
	maxWalks = 3
	// maxAttempts is how often a dump that was interrupted is made again.
	maxAttempts = 5
	// batch is how many deletions go into one datagram. Their acknowledgements
	// must fit into the socket's receive buffer.
	batch = 64
)

// find lists the entries that are to be removed.
func (c *conn) find(ctx context.Context, w *wanted, by filterKind) ([]entry, error) {
	if by == byPort && len(w.ports) > maxWalks {
		by = byProtocol
	}
	if by != byPort {
		found, _, err := c.walk(ctx, w, by, 0)
		return found, err
	}
	var all []entry
	for _, port := range slices.Sorted(maps.Keys(w.ports)) {
		found, filtered, err := c.walk(ctx, w, by, port)
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

// walk dumps the table once and keeps the entries that are to be removed. It
// reports whether the kernel filtered as told. Before Linux 5.8 it does not know
// the filter and dumps the whole family; a kernel that knows filters, but not
// this one, refuses, and is asked for the whole family then.
func (c *conn) walk(ctx context.Context, w *wanted, by filterKind, port uint16) (found []entry, filtered bool, err error) {
	for range maxAttempts {
		found, filtered = nil, by != byFamily
		err = c.dump(ctx, appendDump(nil, w.family, by, port), func(data []byte) error {
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
			return found, filtered, nil
		case errors.Is(err, unix.EINTR):
			continue
		case by != byFamily && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)):
			return c.walk(ctx, w, byFamily, 0)
		case errors.Is(err, unix.EINVAL):
			// The answer of nfnetlink for a subsystem that it does not have.
			return nil, false, fmt.Errorf("list conntrack entries: the kernel has no conntrack over netlink (CONFIG_NF_CT_NETLINK, module nf_conntrack_netlink): %w", err)
		default:
			return nil, false, fmt.Errorf("list conntrack entries: %w", err)
		}
	}
	return nil, false, fmt.Errorf("list conntrack entries: interrupted %d times: %w", maxAttempts, err)
}

// clone is the entry in memory of its own.
func (e entry) clone() entry {
	e.tuple, e.zone, e.id = bytes.Clone(e.tuple), bytes.Clone(e.zone), bytes.Clone(e.id)
	return e
}

// remove deletes the entries and counts those that were still there. One that
// cannot be deleted does not keep the others; the first such error is returned.
func (c *conn) remove(ctx context.Context, entries []entry) (removed int, err error) {
	var failed int
	var first error
	for chunk := range slices.Chunk(entries, batch) {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		var b []byte
		for _, e := range chunk {
			b = appendDelete(b, hostport.FamilyOf(e.destination), e)
		}
		seq, err := c.send(b)
		if err != nil {
			return removed, fmt.Errorf("delete conntrack entries: %w", err)
		}
		for left := len(chunk); left > 0; {
			err := c.receive(func(m message) error {
				if m.kind != unix.NLMSG_ERROR || m.seq-seq >= uint32(len(chunk)) {
					return nil
				}
				left--
				switch err := errno(m); {
				case err == nil:
					removed++
				case !errors.Is(err, unix.ENOENT):
					failed++
					if first == nil {
						first = err
					}
				}
				return nil
			})
			if err != nil {
				return removed, fmt.Errorf("delete conntrack entries: %w", err)
			}
		}
	}
	if failed > 0 {
		return removed, fmt.Errorf("delete %d of %d conntrack entries: %w", failed, len(entries), first)
	}
	return removed, nil
}
