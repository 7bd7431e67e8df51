package iptables

import (
	"fmt"
	"slices"
	"strings"
)

// The parts of a script, in an order in which none depends on a later one.
const (
	guarding = iota // lines that fail unless the kernel is at Change.Before
	creating        // chains that must not exist
	checking        // rules that must exist, or nothing is applied
	removing        // rules that must exist and are deleted
	flushing        // all chains are emptied before any is deleted: one may still lead to another
	dropping        // chains that are empty by then
	adding          // rules
	parts
)

// script is the lines of one iptables-restore --noflush, by table and part.
type script map[string]*[parts][]string

func (s script) line(part int, table string, words ...string) {
	if s[table] == nil {
		s[table] = new([parts][]string)
	}
	s[table][part] = append(s[table][part], strings.Join(words, " "))
}

func (s script) rules(part int, verb string, p chainID, specs ...string) {
	for _, spec := range specs {
		s.line(part, p.table, verb, p.name, spec)
	}
}

// drop deletes a chain with all its rules.
func (s script) drop(p chainID) {
	s.line(flushing, p.table, "-F", p.name)
	s.line(dropping, p.table, "-X", p.name)
}

// String returns the input for iptables-restore, "" if there is nothing to do.
// Each table is a transaction of its own. The guard of 127.0.0.0/8 is added
// before the first mapping that needs it, and deleted after the last, so that a
// process that dies in between leaves the node closed.
func (s script) String() string {
	order := []string{rawTable, natTable}
	if raw := s[rawTable]; raw != nil && len(raw[dropping]) > 0 {
		slices.Reverse(order)
	}
	var b strings.Builder
	for _, table := range order {
		if t := s[table]; t != nil {
			fmt.Fprintf(&b, "*%s\n%s\nCOMMIT\n", table, strings.Join(slices.Concat(t[:]...), "\n"))
		}
	}
	return b.String()
}
