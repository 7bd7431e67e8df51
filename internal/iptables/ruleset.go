package iptables

import (
	"errors"
	"fmt"
	"strings"
)

// ruleset is what iptables-save printed of the tables that matter here, by name.
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

func (t *table) has(chain string) bool {
	_, ok := t.rules[chain]
	return ok
}

func (t *table) declare(chain string) {
	t.chains = append(t.chains, chain)
	if _, ok := t.rules[chain]; !ok {
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

var errNoTable = errors.New("line belongs to no table")

// parse adds the tables in the output of iptables-save. Tables other than nat
// and raw are passed over.
func (r ruleset) parse(text string) error {
	var current *table // nil outside of a table
	wanted := false
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		fail := func(err error) error { return fmt.Errorf("line %d: %w", i+1, err) }
		switch {
		case line == "" || line[0] == '#':
			if name, ok := incompatible(line); ok {
				return fail(fmt.Errorf("table %s holds rules that only nft can show: another program loaded it with nft -f", name))
			}
		case line[0] == '*':
			name := line[1:]
			wanted = name == natTable || name == rawTable
			current = &table{rules: make(map[string][]string)}
			if wanted {
				r[name] = current
			}
		case line == "COMMIT":
			current = nil
		case current == nil:
			return fail(errNoTable)
		case !wanted:
		case line[0] == ':':
			name, _, _ := strings.Cut(line[1:], " ")
			current.declare(name)
		default:
			chain, spec, err := parseRule(line)
			if err != nil {
				return fail(err)
			}
			current.rules[chain] = append(current.rules[chain], spec)
		}
	}
	if current != nil {
		return errors.New("output ends within a table")
	}
	return nil
}

// incompatible reads the remark that the nf_tables variant (1.8.9) makes in
// place of a table. Another, about base chains, only precedes the table.
func incompatible(line string) (table string, ok bool) {
	rest, ok := strings.CutPrefix(line, "# Table `")
	if !ok {
		return "", false
	}
	name, rest, ok := strings.Cut(rest, "'")
	return name, ok && strings.HasPrefix(rest, " is incompatible") && (name == natTable || name == rawTable)
}

// parseRule reads "-A CHAIN SPEC", with or without counters before it.
func parseRule(line string) (chain, spec string, err error) {
	if strings.HasPrefix(line, "[") {
		_, line, _ = strings.Cut(line, "] ")
	}
	rest, ok := strings.CutPrefix(line, "-A ")
	if !ok {
		return "", "", fmt.Errorf("not a rule: %.80q", line)
	}
	chain, spec, _ = strings.Cut(rest, " ")
	if chain == "" {
		return "", "", fmt.Errorf("rule without a chain: %.80q", line)
	}
	return chain, strings.TrimSpace(spec), nil
}
