package nftables

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Check compares the table with what these attachments and the base need: the
// rules, the declarations, and each element with its value and owner. An
// element that names one of them as its owner and is not theirs counts too;
// those of others do not.
func (b *Backend) Check(ctx context.Context, some []*hostport.Attachment, _ hostport.Fingerprint) ([]backend.Difference, error) {
	have, err := b.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return append(have.check(some), unreadable(some...)...), nil
}

// Audit compares the whole table with the rules of all attachments.
func (b *Backend) Audit(ctx context.Context, all []*hostport.Attachment, _ hostport.Fingerprint) ([]backend.Difference, error) {
	have, err := b.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return append(have.audit(all), unreadable(all...)...), nil
}

// check is Check without reading.
func (s snapshot) check(some []*hostport.Attachment) []backend.Difference {
	d := differences{want: elements(some...)}
	if len(d.want) == 0 {
		return nil
	}
	if s.empty() {
		d.missingTable()
		return d.list
	}
	// What others need is not known here. A set of clients that is there is
	// taken for needed: its rule must be there too.
	d.compare(s, clientSetsOf(some).union(clientSetsIn(s.sets)), some)
	owners := make(map[hostport.Key]bool)
	for _, a := range some {
		owners[a.Key] = true
	}
	d.unwanted(s, func(e element) bool { return owners[e.owner()] })
	return d.list
}

// audit is Audit without reading.
func (s snapshot) audit(all []*hostport.Attachment) []backend.Difference {
	d := differences{want: elements(all...)}
	switch {
	case len(d.want) == 0 && s.empty():
		return nil
	case s.empty():
		d.missingTable()
		return d.list
	case len(d.want) == 0:
		d.unwanted(s, func(element) bool { return true })
		d.add(hostport.Key{}, "table inet %s should not be there", tableName)
		return d.list
	}
	clients := clientSetsOf(all)
	known := d.compare(s, clients, all)
	d.unwanted(s, func(element) bool { return true })
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
	return d.list
}

// differences collects what differs between a table and what is wanted.
type differences struct {
	want []element
	list []backend.Difference
}

func (d *differences) add(owner hostport.Key, format string, args ...any) {
	d.list = append(d.list, backend.Difference{Owner: owner, Text: fmt.Sprintf(format, args...)})
}

func (d *differences) missingTable() {
	d.add(hostport.Key{}, "table inet %s is missing: another program removed it", tableName)
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
	if h != w.placement() {
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

// unwanted finds elements that are there for nobody, among those that match.
func (d *differences) unwanted(have snapshot, match func(element) bool) {
	want := make(map[string]bool, len(d.want))
	for _, e := range d.want {
		want[e.id()] = true
	}
	for _, name := range slices.Sorted(maps.Keys(have.elements)) {
		for _, key := range slices.Sorted(maps.Keys(have.elements[name])) {
			if e := have.elements[name][key]; !want[e.id()] && match(e) {
				d.add(e.owner(), "%s should not be there", e)
			}
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
	if len(s.data) > 0 {
		return "map"
	}
	return "set"
}

// declaration returns the set as the kernel would describe it.
func (s set) declaration() declaration {
	d := declaration{keyType: magic(s.key), isMap: len(s.data) > 0, counters: s.counters}
	if d.isMap {
		d.dataType = magic(s.data)
	}
	return d
}

// magic returns the number by which nft knows a type; the kernel keeps it.
func magic(types []nftables.SetDatatype) uint32 {
	const verdictType = 0xffffff00 // NFT_DATA_VERDICT
	if len(types) == 1 && types[0].Name == nftables.TypeVerdict.Name {
		return verdictType
	}
	var n uint32
	for _, t := range types {
		n = n<<nftables.SetConcatTypeBits | t.GetNFTMagic()
	}
	return n
}

func (c chain) placement() placement {
	if c.hook == nil {
		return placement{}
	}
	return placement{
		kind:   string(c.hook.kind),
		number: int32(c.hook.number), priority: int32(c.hook.priority),
		policy: uint32(nftables.ChainPolicyAccept),
	}
}
