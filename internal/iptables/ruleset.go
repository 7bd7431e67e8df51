package iptables

import (
	"errors"
	"fmt"
	"strings"
)

// ruleset is what the tools listed, by table.
type ruleset map[string]*table

// table is one table: its chains in the order of their declaration.
type table struct {
	chains []string
	rules  map[string][]string // of every chain
}

// place is a chain's name in a table.
type place struct{ table, name string }

// of is the table of that name; an empty one if it does not exist.
func (r ruleset) of(name string) *table {
	if t := r[name]; t != nil {
		return t
	}
	return &table{}
}

// add is the table of that name, which r has from now on.
func (r ruleset) add(name string) *table {
	if r[name] == nil {
		r[name] = &table{rules: make(map[string][]string)}
	}
	return r[name]
}

func (t *table) has(chain string) bool {
	_, ok := t.rules[chain]
	return ok
}

// declare adds a chain, unless its name is none of iptables.
func (t *table) declare(chain string) {
	if plain(chain) && !t.has(chain) {
		t.chains = append(t.chains, chain)
		t.rules[chain] = nil
	}
}

// ParseNat reads table nat from the output of iptables-save: the names of its
// chains, and the rules of each as they follow "-A CHAIN".
func ParseNat(save string) (chains []string, rules map[string][]string, err error) {
	r := ruleset{}
	err = r.parse(save)
	nat := r.of(natTable)
	return nat.chains, nat.rules, err
}

// parse adds what iptables-save printed; or what the command -S did for each of
// the chains that were asked for: a line that declares the chain, then its rules.
func (r ruleset) parse(text string, asked ...place) error {
	var current *table // nil outside of a table
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
			current = r.add(line[1:])
		case line == "COMMIT":
			current = nil
		case verb == "-N" || verb == "-P": // CHAIN, or CHAIN POLICY
			name, _, _ := strings.Cut(rest, " ")
			if len(asked) == 0 || name != asked[0].name {
				return fail("is not what was asked for")
			}
			current, asked = r.add(asked[0].table), asked[1:]
			current.declare(name)
		case current == nil:
			return fail("belongs to no table")
		case line[0] == ':':
			current.declare(verb[1:])
		default:
			chain, spec, ok := parseRule(line)
			if !ok {
				return fail("is not a rule")
			}
			current.rules[chain] = append(current.rules[chain], spec)
		}
	}
	if len(asked) > 0 || current != nil && !listed {
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
