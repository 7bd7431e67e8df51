package nftables

import (
	"fmt"
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// step is a change, with what it does to the shared objects.
type step struct {
	hostport.Change
	before, after map[string]bool // the shared objects in use
	// nothing is a change without rules: a batch without messages would not be a
	// commit.
	nothing bool
}

// plan asks the rest only for what the change touches, and for all shared
// objects when the first or the last user of one makes rules change: chains
// are rewritten whole, so that their rules are always in the same order.
func plan(c hostport.Change) (step, error) {
	s := step{Change: c, before: usedBy(c.Remove), after: usedBy(c.Add)}
	s.nothing = !s.before[shareBase] && !s.after[shareBase]
	if err := s.ask(touched(s.before, s.after)); err != nil {
		return step{}, err
	}
	if s.reshapes() {
		return s, s.ask(allShares())
	}
	return s, nil
}

// ask adds the rest's uses to both sides.
func (s step) ask(names []string) error {
	for _, name := range names {
		if s.before[name] && s.after[name] {
			continue
		}
		used, err := s.Rest.Uses(name)
		if err != nil {
			return fmt.Errorf("look for other users of %s: %w", name, err)
		}
		if used {
			s.before[name], s.after[name] = true, true
		}
	}
	return nil
}

// touched are the shared objects that the change uses or used, and those that
// every step must know of to tell what the base looks like.
func touched(before, after map[string]bool) []string {
	out := []string{shareBase, shareOnly4, shareOnly6}
	for name := range before {
		out = append(out, name)
	}
	for name := range after {
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// first reports that the base is not there yet, last that it goes.
func (s step) first() bool { return !s.before[shareBase] }
func (s step) last() bool  { return !s.after[shareBase] }

// reshapes reports whether a set appears or disappears, and rules with it.
func (s step) reshapes() bool {
	for name, used := range s.before {
		if used != s.after[name] {
			return true
		}
	}
	for name, used := range s.after {
		if used != s.before[name] {
			return true
		}
	}
	return false
}

// write puts the change into a batch.
func (s step) write(b *batch) {
	switch {
	case s.last():
		b.dropTable()
		return
	case s.first():
		b.create(s.Add)
		return
	}
	b.removeAttachments(s.Remove)
	if s.reshapes() {
		s.reshape(b)
	}
	b.addAttachments(s.Add)
}

// reshape writes the sets that appear, then the rules, then removes the sets
// that nothing refers to any more.
func (s step) reshape(b *batch) {
	before, after := shapeOf(s.before), shapeOf(s.after)
	old, now := before.sets(), after.sets()
	for _, d := range now {
		if !declared(old, d.name) {
			b.addSet(d)
		}
	}
	if before.only[hostport.IPv4] != after.only[hostport.IPv4] || before.only[hostport.IPv6] != after.only[hostport.IPv6] {
		b.refill(after.hostports())
	}
	switch fresh := missing(before.clients, after.clients); {
	case len(missing(after.clients, before.clients)) > 0:
		b.refill(after.masquerade())
	case len(fresh) > 0:
		// What deletes nothing does not wait for a grace period of the kernel.
		b.addRules(shape{clients: fresh}.masquerade())
	}
	for _, d := range old {
		if !declared(now, d.name) {
			b.dropSet(d.name)
		}
	}
}

// missing are those of the second that the first lacks.
func missing(from, of []clientSet) []clientSet {
	return slices.DeleteFunc(slices.Clone(of), func(c clientSet) bool { return slices.Contains(from, c) })
}

func declared(sets []set, name string) bool {
	return slices.ContainsFunc(sets, func(d set) bool { return d.name == name })
}
