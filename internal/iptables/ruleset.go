package iptables

import (
	"errors"
	"fmt"
	"strings"
)

// ruleset is what the tools listed: chains in the order of their declaration, and
// the rules of each.
type ruleset struct {
	chains []place
	rules  map[place][]string
}

// place is a chain of a table.
type place struct{ table, name string }

func inNat(chain string) place { return place{natTable, chain} }

func (r *ruleset) has(p place) bool {
	_, ok := r.rules[p]
	return ok
}

// declare adds a chain, unless its name is none of iptables.
func (r *ruleset) declare(p place) {
	if plain(p.name) && !r.has(p) {
		r.chains = append(r.chains, p)
		r.add(p)
	}
}

// add adds rules to a chain.
func (r *ruleset) add(p place, specs ...string) {
	if r.rules == nil {
		r.rules = make(map[place][]string)
	}
	r.rules[p] = append(r.rules[p], specs...)
}

// ParseNat reads table nat from the output of iptables-save: the names of its
// chains, and the rules of each as they follow "-A CHAIN".
func ParseNat(save string) (chains []string, rules map[string][]string, err error) {
	var r ruleset
	err = r.parse(save)
	rules = make(map[string][]string)
	for _, p := range r.chains {
		if p.table == natTable {
			chains = append(chains, p.name)
			rules[p.name] = r.rules[p]
		}
	}
	return chains, rules, err
}

// parse adds what iptables-save printed; or what the command -S did for each of
// the chains that were asked for: a line that declares the chain, then its rules.
func (r *ruleset) parse(text string, asked ...place) error {
	var current string // the table
	listed := len(asked) > 0
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		fail := func(why string) error { return fmt.Errorf("line %d %s: %.80q", i+1, why, line) }
		verb, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "" || line[0] == '#':
			// What the nf_tables variant (1.8.9) remarks in place of a table. Another
			// remark, about base chains, only precedes the table.
			for _, name := range []string{rawTable, natTable} {
				if strings.HasPrefix(line, "# Table `"+name+"' is incompatible") {
					return fmt.Errorf("table %s holds rules that only nft can show: another program loaded it with nft -f", name)
				}
			}
		case line[0] == '*':
			current = line[1:]
		case line == "COMMIT":
			current = ""
		case verb == "-N" || verb == "-P": // CHAIN, or CHAIN POLICY
			name, _, _ := strings.Cut(rest, " ")
			if len(asked) == 0 || name != asked[0].name {
				return fail("is not what was asked for")
			}
			r.declare(asked[0])
			current, asked = asked[0].table, asked[1:]
		case current == "":
			return fail("belongs to no table")
		case line[0] == ':':
			r.declare(place{current, verb[1:]})
		default:
			chain, spec, ok := parseRule(line)
			if !ok {
				return fail("is not a rule")
			}
			r.add(place{current, chain}, spec)
		}
	}
	if len(asked) > 0 || current != "" && !listed {
		return errors.New("output ends too early")
	}
	return nil
}

// parseRule reads "-A CHAIN SPEC". Counters ahead of it, as iptables-save -c prints
// them, become the words that -v -S has among the others: "-c PACKETS BYTES".
func parseRule(line string) (chain, spec string, ok bool) {
	counters := ""
	if strings.HasPrefix(line, "[") {
		counters, line, _ = strings.Cut(line[1:], "] ")
		counters = "-c " + strings.Replace(counters, ":", " ", 1) + " "
	}
	rest, ok := strings.CutPrefix(line, "-A ")
	chain, spec, _ = strings.Cut(rest, " ")
	return chain, strings.TrimSpace(counters + spec), ok && chain != ""
}
