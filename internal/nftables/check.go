package nftables

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Check compares the table with what these attachments and the base need. An
// element that names one of them as its owner and is not theirs counts too.
func (b *Backend) Check(ctx context.Context, some []*hostport.Attachment, _ hostport.Fingerprint) ([]backend.Difference, error) {
	return b.compare(ctx, some, false)
}

// Audit compares the whole table with the rules of all attachments.
func (b *Backend) Audit(ctx context.Context, all []*hostport.Attachment, _ hostport.Fingerprint) ([]backend.Difference, error) {
	return b.compare(ctx, all, true)
}

func (b *Backend) compare(ctx context.Context, atts []*hostport.Attachment, whole bool) ([]backend.Difference, error) {
	have, err := b.read(ctx, anySet)
	if err != nil {
		return nil, err
	}
	return append(compare(have, atts, whole), unreadable(atts...)...), nil
}

// compare compares the table with what these attachments need. They are all
// that there are if whole is set: then everything else is one too many.
func compare(have []object, atts []*hostport.Attachment, whole bool) []backend.Difference {
	var out []backend.Difference
	want := own(atts...)
	if len(want) > 0 {
		clients := clientSetsIn(want)
		if !whole {
			// What others need is not known. A set of clients that is there is taken for
			// needed: its rule must be there too.
			maps.Copy(clients, clientSetsIn(have))
		}
		want = slices.Concat(base(clients), want)
	} else if whole && len(have) > 0 {
		out = append(out, backend.Difference{Text: "table inet " + tableName + " should not be there"})
		have = slices.DeleteFunc(have, isShape)
	}
	owners := make(map[hostport.Key]bool)
	for _, a := range atts {
		owners[a.Key] = true
	}
	return append(out, differences(have, want, func(o object) bool { return whole || owners[o.owner()] })...)
}

// isShape reports whether an object is none of the elements.
func isShape(o object) bool {
	_, is := o.(element)
	return !is
}

// differences compares the table with what is wanted. Other objects count if
// extra returns true.
func differences(have, want []object, extra func(object) bool) (out []backend.Difference) {
	if len(have) == 0 && len(want) > 0 {
		return []backend.Difference{{Text: "table inet " + tableName + " is missing: another program removed it"}}
	}
	others, missing, both := pair(have, want)
	for _, o := range missing {
		out = append(out, backend.Difference{Owner: o.owner(), Text: o.String() + " is missing"})
	}
	for _, x := range both {
		for _, text := range x[1].differs(x[0]) {
			out = append(out, backend.Difference{Owner: x[1].owner(), Text: text})
		}
	}
	others = slices.DeleteFunc(others, func(o object) bool { return !extra(o) })
	slices.SortFunc(others, func(x, y object) int { return cmp.Compare(x.id(), y.id()) })
	for _, o := range others {
		out = append(out, backend.Difference{Owner: o.owner(), Text: o.String() + " should not be there"})
	}
	return out
}

// unreadable names the conditions of attachments that cannot be used.
func unreadable(all ...*hostport.Attachment) []backend.Difference {
	var out []backend.Difference
	for _, a := range all {
		if err := validateConditions(a.Options); err != nil {
			out = append(out, backend.Difference{Owner: a.Key, Text: err.Error()})
		}
	}
	return out
}
