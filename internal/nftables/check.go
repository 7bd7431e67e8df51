package nftables

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

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
	have, err := b.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return append(have.differences(atts, whole), unreadable(atts...)...), nil
}

// differences compares the table with what these attachments need. They are all
// that there are if whole is set: then everything else is one too many.
func (s snapshot) differences(atts []*hostport.Attachment, whole bool) []backend.Difference {
	var d differences
	want := make(map[string]bool)
	for _, e := range elements(atts...) {
		want[e.id()] = true
	}
	if s.empty() {
		if len(want) > 0 {
			d.add(hostport.Key{}, "table inet %s is missing: another program removed it", tableName)
		}
		return d
	}
	clients := clientSetsOf(atts)
	if !whole {
		// What others need is not known. A set of clients that is there is taken for
		// needed: its rule must be there too.
		clients = clients.union(clientSetsIn(s.sets))
	}
	var known []chain
	if len(want) > 0 {
		known = d.compare(s, clients, atts)
	}
	owners := make(map[hostport.Key]bool)
	for _, a := range atts {
		owners[a.Key] = true
	}
	for _, name := range slices.Sorted(maps.Keys(s.elements)) {
		for _, key := range slices.Sorted(maps.Keys(s.elements[name])) {
			if e := s.elements[name][key]; !want[e.id()] && (whole || owners[e.owner()]) {
				d.add(e.owner(), "%s should not be there", e)
			}
		}
	}
	switch {
	case !whole:
		return d
	case len(want) == 0:
		d.add(hostport.Key{}, "table inet %s should not be there", tableName)
		return d
	}
	for _, name := range slices.Sorted(maps.Keys(s.sets)) {
		if !slices.ContainsFunc(sets(clients), func(w set) bool { return w.name == name }) {
			d.add(hostport.Key{}, "set %s should not be there", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.chains)) {
		if !slices.ContainsFunc(known, func(c chain) bool { return c.name == name }) {
			d.add(hostport.Key{}, "chain %s should not be there", name)
		}
	}
	return d
}

// differences are what differs between a table and what is wanted.
type differences []backend.Difference

func (d *differences) add(owner hostport.Key, format string, args ...any) {
	*d = append(*d, backend.Difference{Owner: owner, Text: fmt.Sprintf(format, args...)})
}

// compare looks for all that these attachments need, and returns the chains
// among it.
func (d *differences) compare(have snapshot, clients clientSets, atts []*hostport.Attachment) []chain {
	for _, w := range sets(clients) {
		h, ok := have.sets[w.name]
		switch {
		case !ok:
			d.add(hostport.Key{}, "%s %s is missing", w.kind(), w.name)
		case h != w.declaration():
			d.add(hostport.Key{}, "%s %s is declared otherwise", w.kind(), w.name)
		}
	}
	known := chains(clients)
	for _, c := range known {
		d.compareChain(hostport.Key{}, c, have)
	}
	for _, a := range atts {
		for _, c := range conditionChains(a) {
			d.compareChain(a.Key, c, have)
			known = append(known, c)
		}
		for _, w := range elements(a) {
			h, ok := have.elements[w.set][w.key]
			switch {
			case !ok:
				d.add(a.Key, "%s is missing", w)
			case h.value != w.value || h.jump != w.jump:
				d.add(a.Key, "%s should be %s", h, w)
			case h.comment != w.comment:
				d.add(a.Key, "%s is marked as of %q instead of %q", h, h.comment, w.comment)
			}
		}
	}
	return known
}

func (d *differences) compareChain(owner hostport.Key, w chain, have snapshot) {
	h, ok := have.chains[w.name]
	if !ok {
		d.add(owner, "chain %s is missing", w.name)
		return
	}
	if h != w.hook {
		d.add(owner, "chain %s is attached elsewhere than it should be", w.name)
	}
	rules := have.rules[w.name]
	if len(rules) != len(w.rules) {
		d.add(owner, "chain %s has %d rules instead of %d", w.name, len(rules), len(w.rules))
		return
	}
	for i := range rules {
		if !rules[i].same(w.rules[i]) {
			d.add(owner, "rule %d of chain %s differs", i+1, w.name)
		}
	}
}

// owner reads the owner's key from the comment, the zero Key if there is none.
func (e element) owner() hostport.Key {
	a, _ := hostport.ParseTag(e.comment)
	return a.Key
}

// unreadable names the conditions of attachments that cannot be used.
func unreadable(all ...*hostport.Attachment) []backend.Difference {
	var out []backend.Difference
	for _, a := range all {
		for _, f := range hostport.Families() {
			if _, err := parseConditions(a.Options.Conditions(f), f); err != nil {
				out = append(out, backend.Difference{Owner: a.Key, Text: fmt.Sprintf("conditionsV%d: %v", f, err)})
			}
		}
	}
	return out
}

func (s set) kind() string {
	if s.data != (nftables.SetDatatype{}) {
		return "map"
	}
	return "set"
}

// declaration returns the set as the kernel would describe it.
func (s set) declaration() declaration {
	d := declaration{s.key.GetNFTMagic(), s.data.GetNFTMagic(), s.counters}
	if s.data == nftables.TypeVerdict {
		d.data = unix.NFT_DATA_VERDICT
	}
	return d
}
