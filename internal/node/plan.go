package node

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hostport-cni/hostport/internal/sandbox"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// plan is what a change does to the records: the attachments that go and those
// that come.
type plan struct{ remove, add []*hostport.Attachment }

func (p plan) empty() bool { return len(p.remove) == 0 && len(p.add) == 0 }

// backends returns the names of the backends that the plan concerns, those that
// only lose rules first.
func (p plan) backends() []string {
	var names []string
	for _, a := range p.add {
		if !slices.Contains(names, a.Backend) {
			names = append(names, a.Backend)
		}
	}
	for _, a := range p.remove {
		if !slices.Contains(names, a.Backend) {
			names = append([]string{a.Backend}, names...)
		}
	}
	return names
}

// ConflictError says that what an attachment needs belongs to a living one.
type ConflictError struct {
	// Mapping is the host port in conflict. It is the zero Mapping if the
	// conflict is about Address.
	Mapping hostport.Mapping
	// Address is the pod address that both have.
	Address netip.Addr
	Holder  *hostport.Attachment
}

// Error names the port or address and the holder.
func (e *ConflictError) Error() string {
	what := fmt.Sprintf("host port %s is held", e.Mapping)
	if e.Address.IsValid() {
		what = fmt.Sprintf("pod address %s is in use", e.Address)
	}
	s := fmt.Sprintf("%s by %s", what, e.Holder.Owner())
	if !e.Holder.AddedAt.IsZero() {
		s += ", since " + e.Holder.AddedAt.UTC().Format(time.RFC3339)
	}
	return s
}

// lifeFunc tells whether the sandbox of an attachment exists.
type lifeFunc func(*hostport.Attachment) (sandbox.Life, error)

// planAdd plans the ADD of want. found are the records that may be in its way:
// its own earlier one, and those that have one of its ports or addresses. What
// is in conflict with want goes if it is dead, or is an earlier sandbox of the
// same pod, whose DEL is late. A living owner is a *ConflictError.
func planAdd(want *hostport.Attachment, found []*hostport.Attachment, life lifeFunc) (plan, error) {
	p := plan{add: []*hostport.Attachment{want}}
	for _, a := range found {
		c := conflict(want, a)
		if a.Key != want.Key && c == nil {
			continue
		}
		if a.Key != want.Key && !earlierSandbox(want, a) {
			alive, err := life(a)
			switch {
			case alive == sandbox.Alive:
				return plan{}, c
			case alive != sandbox.Dead:
				return plan{}, fmt.Errorf("%w; whether that one is alive cannot be told: %w", c, err)
			}
		}
		p.remove = append(p.remove, a)
	}
	return p, nil
}

// conflict returns what a has that want needs, or nil. An address that both
// have is no conflict within one container.
func conflict(want, a *hostport.Attachment) *ConflictError {
	for _, m := range want.Mappings {
		if slices.ContainsFunc(a.Mappings, m.Overlaps) {
			return &ConflictError{Mapping: m, Holder: a}
		}
	}
	if a.ContainerID == want.ContainerID {
		return nil
	}
	for _, w := range want.Addresses {
		if slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool { return p.Addr() == w.Addr() }) {
			return &ConflictError{Address: w.Addr(), Holder: a}
		}
	}
	return nil
}

// earlierSandbox reports whether a is of the same pod as want and of another
// container: a pod has one sandbox at a time, and the runtime adds the new one
// before it deletes the old one, or never deletes it.
func earlierSandbox(want, a *hostport.Attachment) bool {
	return want.Pod.UID != "" && a.Pod.UID == want.Pod.UID && a.ContainerID != want.ContainerID
}

// origin is where owners that are read from the kernel may come from.
type origin struct {
	boot  string // the hash of this boot's ID
	state string // the ID of this state file
}

// planAdopt plans what a resync does to the records. found are the owners that
// the kernel's rules name. Those that live, are of this boot, and are not
// recorded come, unless this state recorded them once: then they were deleted,
// and their rules were restored from a snapshot. Records of the dead go. A record
// is right where it and the kernel differ, so an owner whose port is taken stays
// out (refused).
func planAdopt(records, found []*hostport.Attachment, here origin, life lifeFunc) (p plan, refused []*ConflictError) {
	var kept []*hostport.Attachment
	for _, a := range records {
		if alive, err := life(a); err == nil && alive == sandbox.Dead {
			p.remove = append(p.remove, a)
			continue
		}
		kept = append(kept, a)
	}
	for _, a := range found {
		if a.Boot != "" && a.Boot != here.boot {
			continue // restored from an earlier boot: inode numbers mean nothing
		}
		if alive, err := life(a); err == nil && alive == sandbox.Dead {
			continue
		}
		if i := slices.IndexFunc(kept, func(k *hostport.Attachment) bool { return k.Key == a.Key }); i >= 0 {
			if merged := merge(kept[i], a); merged != nil && !slices.ContainsFunc(kept, func(k *hostport.Attachment) bool {
				return k.Key != a.Key && conflict(merged, k) != nil
			}) {
				p.remove, p.add = replace(p, kept[i], merged)
				kept[i] = merged
			}
			continue
		}
		if a.State != "" && a.State == here.state {
			continue
		}
		if i := slices.IndexFunc(kept, func(k *hostport.Attachment) bool { return conflict(a, k) != nil }); i >= 0 {
			refused = append(refused, conflict(a, kept[i]))
			continue
		}
		a.Boot, a.State = here.boot, here.state
		kept = append(kept, a)
		p.add = append(p.add, a)
	}
	return p, refused
}

// merge returns a record that was read back from the kernel with what the rules
// of another family say of the same attachment, or nil if they say nothing new
// or the record came from an ADD.
func merge(record, a *hostport.Attachment) *hostport.Attachment {
	if !record.AddedAt.IsZero() || record.Backend != a.Backend {
		return nil
	}
	m := *record
	for _, p := range a.Addresses {
		if _, known := record.Address(hostport.FamilyOf(p.Addr())); !known {
			m.Addresses = append(slices.Clip(m.Addresses), p)
		}
	}
	if len(m.Addresses) == len(record.Addresses) {
		return nil
	}
	for _, add := range a.Mappings {
		if !slices.ContainsFunc(record.Mappings, add.Overlaps) {
			m.Mappings = append(slices.Clip(m.Mappings), add)
		}
	}
	return &m
}

// replace puts merged in the place of old, which is a record or one that p adds.
func replace(p plan, old, merged *hostport.Attachment) (remove, add []*hostport.Attachment) {
	if i := slices.Index(p.add, old); i >= 0 {
		p.add[i] = merged
		return p.remove, p.add
	}
	return append(p.remove, old), append(p.add, merged)
}
