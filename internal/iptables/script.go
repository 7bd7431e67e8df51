package iptables

import (
	"slices"
	"strings"
)

// script is what one iptables-restore --noflush does to one table. Its parts
// are written in an order in which none depends on a later one.
type script struct {
	table string
	// declare are chains that are made, or emptied where they exist.
	declare []string
	// check are rules that must exist, or nothing is applied.
	check []rule
	// remove are rules that must exist and go.
	remove []rule
	// flush are chains that lose all their rules.
	flush []string
	// drop are chains that go with all that is in them.
	drop []string
	// add are rules that come: each at the end of its chain, in this order, but
	// for jumps that must be first.
	add []jump
	// head are rules that come before all others in their chains, in this order.
	head []rule
}

func (s *script) empty() bool {
	return len(s.check) == 0 && !s.changes()
}

// changes reports whether the script does more than check.
func (s *script) changes() bool {
	return len(s.declare)+len(s.remove)+len(s.flush)+len(s.drop)+len(s.add)+len(s.head) > 0
}

// put adds rules at the ends of their chains.
func (s *script) put(rs ...rule) {
	for _, r := range rs {
		s.add = append(s.add, jump{rule: r})
	}
}

func (s *script) write(b *strings.Builder) {
	if s.empty() {
		return
	}
	b.WriteString("*" + s.table + "\n")
	for _, c := range s.declare {
		b.WriteString(":" + c + " - [0:0]\n")
	}
	for _, r := range s.check {
		b.WriteString("-C " + r.String() + "\n")
	}
	for _, r := range s.remove {
		b.WriteString("-D " + r.String() + "\n")
	}
	// All are emptied before any goes: one may still lead to another.
	for _, c := range slices.Concat(s.flush, s.drop) {
		b.WriteString("-F " + c + "\n")
	}
	for _, c := range s.drop {
		b.WriteString("-X " + c + "\n")
	}
	for _, r := range s.add {
		verb := "-A "
		if r.first {
			verb = "-I "
		}
		b.WriteString(verb + r.String() + "\n")
	}
	for _, r := range slices.Backward(s.head) {
		b.WriteString("-I " + r.String() + "\n")
	}
	b.WriteString("COMMIT\n")
}

// scripts are the two tables of one family.
type scripts struct {
	raw, nat script
	// base tells whether there are rules of ours in the family.
	base fate
}

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
// table is a transaction of its own. The guard is up before the first mapping
// that needs it comes, and until the last is gone, so that dying between the
// two leaves the node closed.
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

// changes reports whether the scripts do more than check.
func (s *scripts) changes() bool { return s.raw.changes() || s.nat.changes() }

// create makes a share's chain anew, without the jumps to it.
func (s *scripts) create(sh share) {
	t := s.of(sh.table)
	t.declare = append(t.declare, sh.chain)
	for _, spec := range sh.body {
		t.put(rule{sh.chain, spec})
	}
}
