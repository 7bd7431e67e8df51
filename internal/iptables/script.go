package iptables

import (
	"slices"
	"strings"
)

// script is what one iptables-restore --noflush does to one table. Its parts
// are written in an order in which none depends on a later one.
type script struct {
	table string
	// guard are lines that fail unless the kernel is at the change's Before.
	guard []string
	// create are chains that must not exist.
	create []string
	// check are rules that must exist, or nothing is applied.
	check []rule
	// remove are rules that must exist and go.
	remove []rule
	// flush are chains that lose all their rules.
	flush []string
	// drop are chains that go with all that is in them.
	drop []string
	// add are rules that come, in this order.
	add []rule
	// head are rules that come before all others in their chains, in this order.
	head []rule
}

// put adds rules at the end of a chain.
func (s *script) put(chain string, specs ...string) {
	for _, spec := range specs {
		s.add = append(s.add, rule{chain: chain, spec: spec})
	}
}

func (s *script) write(b *strings.Builder) {
	var lines []string
	line := func(verb, rest string) { lines = append(lines, verb+" "+rest) }
	lines = append(lines, s.guard...)
	for _, c := range s.create {
		line("-N", c)
	}
	for _, r := range s.check {
		line("-C", r.String())
	}
	for _, r := range s.remove {
		line("-D", r.String())
	}
	// All are emptied before any goes: one may still lead to another.
	for _, c := range slices.Concat(s.flush, s.drop) {
		line("-F", c)
	}
	for _, c := range s.drop {
		line("-X", c)
	}
	for _, r := range s.add {
		verb := "-A"
		if r.first {
			verb = "-I"
		}
		line(verb, r.String())
	}
	for _, r := range slices.Backward(s.head) {
		line("-I", r.String())
	}
	if len(lines) > 0 {
		b.WriteString("*" + s.table + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n")
	}
}

// scripts are the two tables of one family.
type scripts struct{ raw, nat script }

func newScripts() *scripts {
	return &scripts{raw: script{table: rawTable}, nat: script{table: natTable}}
}

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
	var b strings.Builder
	if len(s.raw.drop) > 0 {
		s.nat.write(&b)
		s.raw.write(&b)
	} else {
		s.raw.write(&b)
		s.nat.write(&b)
	}
	return b.String()
}
