package nftables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Check compares the table with what these attachments and the base need: the
// rules, the declarations, and each element with its value and owner. An
// element that names one of them as its owner and is not theirs counts too;
// those of others do not. The error has a line for each difference.
func (b *Backend) Check(ctx context.Context, atts []*hostport.Attachment) error {
	have, err := b.snapshot(ctx)
	if err != nil {
		return err
	}
	return problems(differences(have, atts, false))
}

func problems(lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	const most = 20
	if n := len(lines); n > most {
		lines = append(lines[:most:most], fmt.Sprintf("and %d more", n-most))
	}
	return errors.New(strings.Join(lines, "\n"))
}

// differences says how the table differs from what the attachments need. If
// they are all there is, what is more than that is a difference as well.
func differences(have snapshot, atts []*hostport.Attachment, all bool) []string {
	used := usedBy(atts)
	if !used[shareBase] {
		if all && !have.empty() {
			return []string{fmt.Sprintf("table inet %s should not be there", tableName)}
		}
		return nil
	}
	if have.empty() {
		return []string{fmt.Sprintf("table inet %s is missing: another program removed it", tableName)}
	}
	if !all {
		// Others' needs are not known here. Take the sets that are there for
		// needed: their rules must be there too.
		for _, share := range allShares() {
			if _, ok := have.sets[share]; ok {
				used[share] = true
			}
		}
	}
	var d diff
	s := shapeOf(used)
	chains := s.chains()
	for _, a := range atts {
		chains = append(chains, conditionChains(a)...)
	}
	d.compareSets(s.sets(), have)
	d.compareChains(chains, have)
	d.compareElements(atts, have)
	if all {
		d.findMore(s.sets(), chains, atts, have)
	} else {
		d.findForeign(atts, have)
	}
	return d.lines
}

// diff collects differences in words.
type diff struct{ lines []string }

func (d *diff) add(format string, args ...any) {
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diff) compareSets(want []set, have snapshot) {
	for _, w := range want {
		h, ok := have.sets[w.name]
		switch {
		case !ok:
			d.add("%s %s is missing", w.kind(), w.name)
		case h != w.declaration():
			d.add("%s %s is declared otherwise", w.kind(), w.name)
		}
	}
}

func (s set) kind() string {
	if len(s.data) > 0 {
		return "map"
	}
	return "set"
}

// declaration is the set as the kernel would describe it.
func (s set) declaration() declaration {
	d := declaration{keyType: magic(s.key), isMap: len(s.data) > 0, counters: s.counters}
	if d.isMap {
		d.dataType = magic(s.data)
	}
	return d
}

// magic is the number by which nft knows a type; the kernel keeps it.
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

func (d *diff) compareChains(want []chain, have snapshot) {
	for _, w := range want {
		h, ok := have.chains[w.name]
		if !ok {
			d.add("chain %s is missing", w.name)
			continue
		}
		if h != w.placement() {
			d.add("chain %s is attached elsewhere than it should be", w.name)
		}
		rules := have.rules[w.name]
		if len(rules) != len(w.rules) {
			d.add("chain %s has %d rules instead of %d", w.name, len(rules), len(w.rules))
			continue
		}
		if w.same(rules) {
			continue
		}
		if w.unordered {
			d.add("a rule of chain %s is another", w.name)
			continue
		}
		for i := range rules {
			if !rules[i].same(w.rules[i]) {
				d.add("rule %d of chain %s is another", i+1, w.name)
			}
		}
	}
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

func (d *diff) compareElements(atts []*hostport.Attachment, have snapshot) {
	for _, a := range atts {
		for _, w := range elements(a) {
			h, ok := have.elements[w.set][w.key]
			switch {
			case !ok:
				d.add("%s is missing", w)
			case h.value != w.value || h.jump != w.jump:
				d.add("%s should be %s", h, w)
			case h.comment != w.comment:
				d.add("%s is marked as of %q instead of %q", h, h.comment, w.comment)
			}
		}
	}
}

// findForeign finds elements that claim to be of one of the attachments.
func (d *diff) findForeign(atts []*hostport.Attachment, have snapshot) {
	want := make(map[string]bool)
	owners := make(map[hostport.Key]bool)
	for _, a := range atts {
		owners[a.Key] = true
		for _, e := range elements(a) {
			want[e.id()] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have.elements)) {
		for _, key := range slices.Sorted(maps.Keys(have.elements[name])) {
			e := have.elements[name][key]
			if a, ok := hostport.ParseTag(e.comment); ok && owners[a.Key] && !want[e.id()] {
				d.add("%s should not be there", e)
			}
		}
	}
}

// findMore finds everything that no attachment needs.
func (d *diff) findMore(sets []set, chains []chain, atts []*hostport.Attachment, have snapshot) {
	want := make(map[string]bool)
	for _, a := range atts {
		for _, e := range elements(a) {
			want[e.id()] = true
		}
	}
	for name, es := range have.elements {
		if !declared(sets, name) {
			d.add("set %s should not be there", name)
			continue
		}
		for _, e := range es {
			if !want[e.id()] {
				d.add("%s should not be there", e)
			}
		}
	}
	for name := range have.chains {
		if !slices.ContainsFunc(chains, func(c chain) bool { return c.name == name }) {
			d.add("chain %s should not be there", name)
		}
	}
}
