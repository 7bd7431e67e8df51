package iptables

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
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

// String returns the input for iptables-restore, "" if there is nothing to do. Each table
// is a transaction of its own: the guard is added before the first mapping that needs it,
// and deleted after the last. A process that dies in between leaves the node closed.
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

// changeScript returns the script that carries out c in family f, and adds the new
// fingerprint to the family's history. The script fails in the kernel unless that is at
// the end of the history. It is empty if c does not touch the family.
func changeScript(f hostport.Family, c backend.Change, all histories) (script, error) {
	s := make(script)
	if !uses(f, c.Remove) && !uses(f, c.Add) {
		return s, nil
	}
	all[f] = all[f].follow(s, c.After.Of(f), !uses(f, c.Remove))
	before, after := wantRules(f, c.Remove, 0), wantRules(f, c.Add, 0)
	alone := c.Before.Of(f) == 0 || c.After.Of(f) == 0 // no other attachment uses any chain
	going := make(map[chainID]bool)
	for i, ch := range slices.Concat(before.chains, after.chains) {
		old, next := before.at[ch.chainID], after.at[ch.chainID]
		had, has := old != nil, next != nil
		if had && i >= len(before.chains) {
			continue // it was handled with those of before
		}
		differs := had && has && !slices.Equal(old.specs, next.specs)
		if had != has && !alone && ch.usedBy != nil {
			used, err := ch.usedBy(c.Others)
			if err != nil {
				return nil, fmt.Errorf("look up the attachments that need chain %s: %w", ch.name, err)
			}
			had, has = had || used, has || used
		}
		switch {
		case !has:
			going[ch.chainID] = true
			s.drop(ch.chainID)
		case !had:
			s.line(creating, ch.table, "-N", ch.name)
			s.rules(adding, "-A", ch.chainID, ch.specs...)
		case differs:
			s.line(flushing, ch.table, "-F", ch.name)
			s.rules(adding, "-A", ch.chainID, next.specs...)
		}
		for _, j := range ch.jumps {
			switch {
			case had && has:
				s.rules(checking, "-C", j.chainID, j.spec)
			case has:
				s.rules(adding, ch.verb, j.chainID, j.spec)
			case !going[j.chainID]:
				s.rules(removing, "-D", j.chainID, j.spec)
			}
		}
	}
	for _, g := range before.ports {
		switch {
		case going[g.chainID]:
		case slices.ContainsFunc(after.ports, g.equal):
			s.rules(checking, "-C", g.chainID, g.specs...)
		default:
			s.rules(removing, "-D", g.chainID, g.specs...)
		}
	}
	for _, g := range slices.Backward(after.ports) {
		if slices.ContainsFunc(before.ports, g.equal) {
			continue
		}
		// Insert at the head, the last rule first: a stale rule in the chain must not win.
		for _, spec := range slices.Backward(g.specs) {
			s.rules(adding, "-I", g.chainID, spec)
		}
	}
	return s, nil
}

func uses(f hostport.Family, all []*hostport.Attachment) bool {
	return slices.ContainsFunc(all, func(a *hostport.Attachment) bool { return len(a.Forwards(f)) > 0 })
}
