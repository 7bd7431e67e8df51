package iptables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// maxPlaces is up to how many chains are listed one by one.
const maxPlaces = 512

// places returns the chains that Check compares for some attachments, by table as
// the tool takes them.
func places(f hostport.Family, some []*hostport.Attachment, fp uint64) []place {
	c := newComparison(f, ruleset{})
	c.compare(some, fp)
	out := make([]place, 0, len(c.wanted))
	for p := range c.wanted {
		out = append(out, p)
	}
	slices.SortFunc(out, func(x, y place) int {
		return cmp.Or(cmp.Compare(x.table, y.table), cmp.Compare(x.name, y.name))
	})
	return out
}

// look reads the chains that Check compares, with one process. Where one of them
// cannot be listed, because it is not there or holds rules that the tool does not
// understand, read tells more; and it takes no lock, should another program hold
// that.
func (b *Backend) look(ctx context.Context, f hostport.Family, some []*hostport.Attachment, fp uint64) (ruleset, error) {
	if asked := places(f, some, fp); len(asked) <= maxPlaces {
		// The tool fails at the last line, as it should.
		out, err := b.Run(ctx, command(f)+"-restore", listText(append(asked, place{natTable, followedChain(fp)}), "-S"), append(shortWait(), "--noflush")...)
		if killed(err) {
			return nil, err
		}
		if r, err := parseList(out, asked); err == nil {
			return r, nil
		}
	}
	v, err := b.current(ctx, f)
	if err != nil {
		return nil, err
	}
	return b.read(ctx, v)
}

// listText asks iptables-restore to list chains, sorted by table, with a command
// for each. Nothing in the kernel is changed by that, also where a table is not
// there.
func listText(asked []place, command string) string {
	var text strings.Builder
	for i, p := range asked {
		if i == 0 || asked[i-1].table != p.table {
			fmt.Fprintf(&text, "*%s\n", p.table)
		}
		fmt.Fprintf(&text, "%s %s\n", command, p.name)
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
	r := ruleset{}
	var in place
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, "-A ") {
			chain, spec, err := parseRule(line)
			if err != nil {
				return nil, err
			}
			if chain != in.name {
				return nil, fmt.Errorf("%w: %.80q", errNotAsked, line)
			}
			rules := r[in.table].rules
			rules[chain] = append(rules[chain], spec)
			continue
		}
		words := strings.Fields(line) // -N CHAIN, or -P CHAIN POLICY
		if len(words) < 2 || len(asked) == 0 || words[1] != asked[0].name {
			return nil, fmt.Errorf("%w: %.80q", errNotAsked, line)
		}
		in, asked = asked[0], asked[1:]
		if r[in.table] == nil {
			r[in.table] = &table{rules: make(map[string][]string)}
		}
		r[in.table].declare(in.name)
	}
	if len(asked) > 0 {
		return nil, fmt.Errorf("%w: chain %s is not listed", errNotAsked, asked[0].name)
	}
	return r, nil
}
