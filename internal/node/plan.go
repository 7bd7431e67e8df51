package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// plan is what a change does to the records: the attachments that it removes and
// those that it adds.
type plan struct {
	remove, add []*hostport.Attachment
	// strange are backends whose rules name an owner that is not recorded for them.
	strange []string
}

func (p plan) empty() bool { return len(p.remove) == 0 && len(p.add) == 0 }

// backends returns the names of the backends whose attachments change.
func (p plan) backends() (names []string) {
	for _, a := range slices.Concat(p.remove, p.add) {
		if !slices.Contains(names, a.Backend) {
			names = append(names, a.Backend)
		}
	}
	return names
}

// Kinds of conflicts, by which they are counted: a host port or a pod address of another
// attachment, and a process of the node that listens.
const (
	KindPort     = "port"
	KindAddress  = "address"
	KindListener = "listener"
)

// ConflictError says that a port or address that an attachment needs is in use.
type ConflictError struct {
	Kind  string
	error // names the port or address and the holder, or each socket with its process
}

// held returns the conflict with the attachment that holds a port or an address.
func held(kind, what string, by *hostport.Attachment) *ConflictError {
	text := what + " by " + by.Owner()
	if !by.AddedAt.IsZero() {
		text += ", since " + by.AddedAt.UTC().Format(time.RFC3339)
	}
	return &ConflictError{kind, errors.New(text)}
}

// deadFunc reports whether the sandbox of an attachment is gone, or why that cannot
// be determined.
type deadFunc func(*hostport.Attachment) (bool, error)

// planAdd plans the ADD of want. found are the records that may conflict with it:
// its own earlier one, and those that have one of its ports or addresses. A
// record in conflict is removed if its owner is dead, or is an earlier sandbox of
// the same pod, whose DEL is late. Another living owner is a *ConflictError.
func planAdd(want *hostport.Attachment, found []*hostport.Attachment, dead deadFunc) (plan, error) {
	p := plan{add: []*hostport.Attachment{want}}
	for _, a := range found {
		c := conflict(want, a, hostport.Mapping.Overlaps)
		switch {
		case a.Key == want.Key:
		case c == nil:
			continue
		// A pod has one sandbox at a time. The runtime adds the new one before it
		// deletes the old one, or never deletes it.
		case want.Pod.UID == "" || a.Pod.UID != want.Pod.UID || a.ContainerID == want.ContainerID:
			gone, err := dead(a)
			if err != nil {
				return plan{}, fmt.Errorf("%w; cannot determine whether its sandbox still exists: %w", c, err)
			}
			if !gone {
				return plan{}, c
			}
		}
		p.remove = append(p.remove, a)
	}
	return p, nil
}

// conflict returns the first port or address of a that want needs, or nil. Within
// one container, an address that both have is no conflict.
func conflict(want, a *hostport.Attachment, overlap func(x, y hostport.Mapping) bool) *ConflictError {
	for _, m := range want.Mappings {
		if slices.ContainsFunc(a.Mappings, func(o hostport.Mapping) bool { return overlap(m, o) }) {
			return held(KindPort, fmt.Sprintf("host port %s is held", m), a)
		}
	}
	if a.ContainerID == want.ContainerID {
		return nil
	}
	for _, w := range want.Addresses {
		if slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool { return p.Addr() == w.Addr() }) {
			return held(KindAddress, fmt.Sprintf("pod address %s is in use", w.Addr()), a)
		}
	}
	return nil
}

// planGC plans Node.GC.
func planGC(records []*hostport.Attachment, network string, valid []hostport.Key, listed bool, dead deadFunc) (plan, error) {
	return planRemove(records, func(a *hostport.Attachment) (bool, error) {
		switch {
		case slices.Contains(valid, a.Key) || a.Network != "" && a.Network != network:
			return false, nil
		case listed && a.Network == network:
			return true, nil
		default:
			return dead(a)
		}
	})
}

// planPrune plans Node.Prune. A process without sight of the sandboxes gets ErrUnseen
// for any record in question, even for one that it could see alive.
func planPrune(records []*hostport.Attachment, among []hostport.Key, sees sight, dead deadFunc) (plan, error) {
	return planRemove(records, func(a *hostport.Attachment) (bool, error) {
		if len(among) > 0 && !slices.Contains(among, a.Key) {
			return false, nil
		}
		if !sees {
			return false, ErrUnseen
		}
		return dead(a)
	})
}

// planRemove plans the removal of every record for which stale returns true. After an
// error of stale, nothing is removed.
func planRemove(records []*hostport.Attachment, stale func(*hostport.Attachment) (bool, error)) (p plan, err error) {
	for _, a := range records {
		yes, err := stale(a)
		if err != nil {
			return plan{}, err
		}
		if yes {
			p.remove = append(p.remove, a)
		}
	}
	return p, nil
}

// origin tells where an owner that is read from the kernel comes from.
type origin struct {
	boot  string // the hash of the boot's ID
	state string // the ID of the state file
}

func find(all []*hostport.Attachment, k hostport.Key) *hostport.Attachment {
	if i := slices.IndexFunc(all, func(a *hostport.Attachment) bool { return a.Key == k }); i >= 0 {
		return all[i]
	}
	return nil
}

// planAdopt plans what a resync does to the records. It removes those of the dead. Of the
// owners that the kernel's rules name (found), it adds those that are alive, of this boot
// and not recorded, unless this state recorded them once: then they were deleted, and their
// rules were restored from a snapshot or left by an interrupted change (changed). The records
// win over the kernel: an owner whose port is taken is not added (refused).
func planAdopt(records, found, changed []*hostport.Attachment, here origin, dead deadFunc) (p plan, refused []*ConflictError) {
	gone := func(a *hostport.Attachment) bool {
		is, _ := dead(a)
		return is
	}
	kept := slices.DeleteFunc(slices.Clone(records), gone)
	for _, a := range found {
		record := find(kept, a.Key)
		if record == nil || record.Backend != a.Backend {
			p.strange = append(p.strange, a.Backend)
		}
		switch {
		case a.Boot != "" && a.Boot != here.boot: // restored from an earlier boot: inode numbers mean nothing
		case gone(a):
		case record != nil:
			// The record was made from the rules when those of one family could not be read, or
			// while another process wrote them.
			if record.AddedAt.IsZero() && record.Backend == a.Backend && len(forwards(record)) < len(forwards(a)) && inTheWay(a, kept) == nil {
				a.Boot, a.State = here.boot, here.state
				kept[slices.Index(kept, record)] = a
			}
		case a.State != "" && a.State == here.state || find(changed, a.Key) != nil: // it was deleted
		default:
			if c := inTheWay(a, kept); c != nil {
				refused = append(refused, c)
				continue
			}
			a.Boot, a.State = here.boot, here.state
			kept = append(kept, a)
		}
	}
	p.remove = without(records, kept)
	p.add = without(kept, records)
	return p, refused
}

// forwards returns the forwards of attachments in both families.
func forwards(all ...*hostport.Attachment) (out []hostport.Forward) {
	for _, a := range all {
		for _, f := range hostport.Families() {
			out = append(out, a.Forwards(f)...)
		}
	}
	return out
}

// without returns the elements of all that are not in some.
func without(all, some []*hostport.Attachment) []*hostport.Attachment {
	return slices.DeleteFunc(slices.Clone(all), func(a *hostport.Attachment) bool { return slices.Contains(some, a) })
}

// inTheWay returns the first conflict of want's rules with those of another attachment,
// or nil. A mapping for both families has rules only in those of the pod's addresses.
func inTheWay(want *hostport.Attachment, among []*hostport.Attachment) *ConflictError {
	for _, a := range among {
		overlap := func(m, o hostport.Mapping) bool {
			return m.Overlaps(o) && slices.ContainsFunc(hostport.Families(), func(f hostport.Family) bool {
				_, mine := want.Address(f)
				_, theirs := a.Address(f)
				return mine && theirs && m.Serves(f) && o.Serves(f)
			})
		}
		if c := conflict(want, a, overlap); c != nil && a.Key != want.Key {
			return c
		}
	}
	return nil
}
