package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// place is a chain in a table.
type place struct{ table, chain string }

// maxPlaces is up to how many chains are looked at one by one.
const maxPlaces = 256

// places are the chains that rules of the attachments, and the base that leads
// to them, are in.
func places(f hostport.Family, atts []*hostport.Attachment) []place {
	var out []place
	seen := make(map[place]bool)
	add := func(p place) {
		if !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	for _, a := range atts {
		for _, sh := range sharesOf(f, a) {
			add(place{sh.table, sh.chain})
			for _, j := range sh.jumps {
				add(place{sh.table, j.chain})
			}
		}
		if chain, _ := ownRules(f, a); chain != "" {
			add(place{natTable, chain})
		}
	}
	return out
}

// look reads what Check has to compare. It asks for those chains alone where it
// can: the nf_tables variant of iptables-save (1.8.9) takes a second for the
// rules of 5,000 Services. Where one of them cannot be listed, because it is not
// there or holds what the tool does not understand, iptables-save tells more;
// and it needs no lock, which for a look is not waited for.
func (b *Backend) look(ctx context.Context, f hostport.Family, atts []*hostport.Attachment) (ruleset, error) {
	asked := places(f, atts)
	if b.memory != nil {
		asked = append(asked, place{natTable, revisionChain})
	}
	if len(asked) <= maxPlaces {
		// Tables one after the other, as the tool takes them.
		slices.SortStableFunc(asked, func(x, y place) int { return strings.Compare(x.table, y.table) })
		out, err := b.run(ctx, restoreTool(f), listText(asked), "--noflush")
		if killed(err) {
			return ruleset{}, err
		}
		if err == nil {
			if r, err := parseList(out, asked); err == nil {
				return r, nil
			}
		}
	}
	return b.save(ctx, f)
}

// listText asks iptables-restore to list chains, sorted by table. Nothing in
// the kernel is changed by that, also where a table is not there.
func listText(asked []place) string {
	var text strings.Builder
	for i, p := range asked {
		if i == 0 || asked[i-1].table != p.table {
			fmt.Fprintf(&text, "*%s\n", p.table)
		}
		fmt.Fprintf(&text, "-S %s\n", p.chain)
		if i == len(asked)-1 || asked[i+1].table != p.table {
			text.WriteString("COMMIT\n")
		}
	}
	return text.String()
}

var errNotAsked = errors.New("not what was asked for")

// parseList reads the answer to listText: for each chain a line that says what
// it is, then its rules.
func parseList(text string, asked []place) (ruleset, error) {
	r := ruleset{tables: make(map[string]*table)}
	var in place
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, "-A ") {
			chain, spec, err := parseRule(line)
			if err != nil {
				return ruleset{}, err
			}
			if chain != in.chain {
				return ruleset{}, fmt.Errorf("%w: %.80q", errNotAsked, line)
			}
			rules := r.tables[in.table].rules
			rules[chain] = append(rules[chain], spec)
			continue
		}
		words := strings.Fields(line) // -N CHAIN, or -P CHAIN POLICY
		if len(words) < 2 || len(asked) == 0 || words[1] != asked[0].chain {
			return ruleset{}, fmt.Errorf("%w: %.80q", errNotAsked, line)
		}
		in, asked = asked[0], asked[1:]
		if r.tables[in.table] == nil {
			r.tables[in.table] = &table{rules: make(map[string][]string)}
		}
		t := r.tables[in.table]
		t.chains = append(t.chains, in.chain)
	}
	if len(asked) > 0 {
		return ruleset{}, fmt.Errorf("%w: chain %s is not listed", errNotAsked, asked[0].chain)
	}
	return r, nil
}
