package iptables

import (
	"slices"
	"strings"
)

// The parts of a script, in an order in which none depends on a later one.
const (
	guarding = iota // lines that fail unless the kernel is at the change's Before
	creating        // chains that must not exist
	checking        // rules that must exist, or nothing is applied
	removing        // rules that must exist and go
	flushing        // all chains are emptied before any goes: one may still lead to another
	dropping        // chains that are empty by then
	adding          // rules
	parts
)

// script is the lines of one iptables-restore --noflush for one table, by part.
type script [parts][]string

func (s *script) line(part int, words ...string) {
	s[part] = append(s[part], strings.Join(words, " "))
}

// rules adds a line for each rule.
func (s *script) rules(part int, verb, chain string, specs ...string) {
	for _, spec := range specs {
		s.line(part, verb, chain, spec)
	}
}

// jump adds a jump.
func (s *script) jump(j jump) {
	if j.first {
		s.line(adding, "-I", j.chain, j.spec)
	} else {
		s.line(adding, "-A", j.chain, j.spec)
	}
}

// drop deletes a chain with all that is in it.
func (s *script) drop(chain string) {
	s.line(flushing, "-F", chain)
	s.line(dropping, "-X", chain)
}

func (s *script) text(table string) string {
	lines := slices.Concat(s[:]...)
	if len(lines) == 0 {
		return ""
	}
	return "*" + table + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
}

// scripts are the two tables of one family.
type scripts struct{ raw, nat script }

func (s *scripts) of(table string) *script {
	if table == rawTable {
		return &s.raw
	}
	return &s.nat
}

// String is the input for iptables-restore: "" if there is nothing to do. Each
// table is a transaction of its own. The guard of 127.0.0.0/8 is up before the
// first mapping that needs it comes, and until the last is gone, so that a
// process that dies between the two leaves the node closed.
func (s *scripts) String() string {
	if len(s.raw[dropping]) > 0 {
		return s.nat.text(natTable) + s.raw.text(rawTable)
	}
	return s.raw.text(rawTable) + s.nat.text(natTable)
}
