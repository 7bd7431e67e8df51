package nftables

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Check also reports an element that wrongly names one of these attachments as its owner,
// or that takes packets to their host ports.
func (b *Backend) Check(ctx context.Context, some []*hostport.Attachment, _ hostport.Fingerprint) ([]backend.Difference, error) {
	return b.compare(ctx, some, false)
}

// Audit compares the whole table.
func (b *Backend) Audit(ctx context.Context, all []*hostport.Attachment, _ hostport.Fingerprint) ([]backend.Difference, error) {
	return b.compare(ctx, all, true)
}

func (b *Backend) compare(ctx context.Context, atts []*hostport.Attachment, whole bool) ([]backend.Difference, error) {
	have, err := b.read(ctx, nil)
	if err != nil {
		return nil, err
	}
	var others clientSets
	if !whole {
		others = clientSetsIn(have) // assume that others need them: their rules must exist too
	}
	want, owners := contents(others, atts), make(map[hostport.Key]bool)
	for _, a := range atts {
		owners[a.Key] = true
	}
	extra := func(o object) bool {
		return owners[o.owner()] || takes(o, atts) || whole && (len(want) > 0 || is[table](o) || is[element](o))
	}
	return append(compare(have, want, extra), b.unreadable(atts)...), nil
}

// takes reports whether an object is a map element for packets to a host port of these
// attachments: a host IP is looked up before the wildcard, conditions before pods.
func takes(o object, atts []*hostport.Attachment) bool {
	e, _ := o.(element)
	m, ok := e.hostSide()
	return ok && slices.ContainsFunc(atts, func(a *hostport.Attachment) bool {
		return a.Serves(m) && slices.ContainsFunc(a.Mappings, m.Overlaps)
	})
}

// contents returns the objects of a table for these attachments, and for these sets
// of clients besides theirs.
func contents(others clientSets, atts []*hostport.Attachment) []object {
	out, clients := wantObjects(atts...)
	if len(out) == 0 {
		return nil
	}
	maps.Copy(clients, others)
	return slices.Concat(base(clients), out)
}

// compare compares the table with the wanted objects. Another object is a
// difference if extra returns true.
func compare(have, want []object, extra func(object) bool) (out []backend.Difference) {
	add := func(o object, text string, shared bool) {
		out = append(out, backend.Difference{Owner: o.owner(), Text: text, Shared: shared && o.owner() == hostport.Key{}})
	}
	others, missing, both := pair(have, want)
	if len(have) == 0 && len(want) > 0 {
		missing = want[:1] // the table, and so everything
	}
	for _, o := range missing {
		add(o, o.String()+" is missing", true)
	}
	for _, x := range both {
		if text := x[1].differs(x[0]); text != "" {
			add(x[1], text, true)
		}
	}
	others = slices.DeleteFunc(others, func(o object) bool { return !extra(o) })
	slices.SortFunc(others, func(x, y object) int { return cmp.Compare(x.id(), y.id()) })
	for _, o := range others {
		c, _ := o.(chain)
		add(o, o.String()+" should not be there", c.hook != hook{}) // all packets pass that
	}
	return out
}

// unreadable returns a difference for each attachment whose conditions cannot be used.
func (b *Backend) unreadable(all []*hostport.Attachment) (out []backend.Difference) {
	for _, a := range all {
		if err := b.Validate(a.Options); err != nil {
			out = append(out, backend.Difference{Owner: a.Key, Text: err.Error()})
		}
	}
	return out
}
