package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// maxPlaces is up to how many chains are listed one by one.
const maxPlaces = 256

// places returns the chains that hold the rules of some attachments, and of the
// shared chains that lead to them.
func places(f hostport.Family, some []*hostport.Attachment, fp uint64) []place {
	var out []place
	seen := make(map[place]bool)
	add := func(p place) {
		if !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	for _, a := range some {
		for _, ch := range chainsFor(f, a) {
			add(place{ch.table, ch.name})
			for _, j := range ch.jumps {
				add(place{ch.table, j.chain})
			}
		}
		for _, c := range wantRules(f, a).chains {
			add(place{natTable, c.name})
		}
	}
	add(place{natTable, fingerprintChain(fp)})
	return out
}

// look reads the chains that Check compares. It asks for those alone where it
// can: the nf_tables variant of iptables-save (1.8.9) takes a second for the
// rules of 5,000 Services. Where one of them cannot be listed, because it is not
// there or holds rules that the tool does not understand, iptables-save tells
// more; and it takes no lock, should another program hold that.
func (b *Backend) look(ctx context.Context, f hostport.Family, some []*hostport.Attachment, fp uint64) (ruleset, error) {
	if asked := places(f, some, fp); len(asked) <= maxPlaces {
		// One table after the other, as the tool takes them.
		slices.SortStableFunc(asked, func(x, y place) int { return strings.Compare(x.table, y.table) })
		// The tool fails at the last line, as it should.
		out, err := b.run(ctx, command(f)+"-restore", listText(append(asked, place{natTable, followedChain(fp)})), append(shortWait(), "--noflush")...)
		if killed(err) {
			return ruleset{}, err
		}
		if r, err := parseList(out, asked); err == nil {
			return r, nil
		}
	}
	v, err := b.current(ctx, f)
	if err != nil {
		return ruleset{}, err
	}
	return b.save(ctx, v)
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

// parseList reads the answer to listText: for each chain a line that declares
// it, then its rules.
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
		r.tables[in.table].declare(in.chain)
	}
	if len(asked) > 0 {
		return ruleset{}, fmt.Errorf("%w: chain %s is not listed", errNotAsked, asked[0].chain)
	}
	return r, nil
}
