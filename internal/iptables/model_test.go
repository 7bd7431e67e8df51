package iptables

import (
	"fmt"
	stdmaps "maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/netns"
)

// model understands what we feed to iptables-restore --noflush, as strictly as
// the tool does. It serves to try thousands of changes on; that the tool agrees
// is shown by the tests that run it.
type model map[string]map[string][]string // table, chain, rules

func newModel() model {
	m := model{natTable: {}, rawTable: {}}
	for _, c := range []string{"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"} {
		m[natTable][c] = nil
	}
	for _, c := range []string{"PREROUTING", "OUTPUT"} {
		m[rawTable][c] = nil
	}
	return m
}

// clone copies what a failed transaction must not change.
func (m model) clone() model {
	out := model{}
	for t, chains := range m {
		out[t] = make(map[string][]string)
		for c, rules := range chains {
			out[t][c] = slices.Clone(rules)
		}
	}
	return out
}

// ruleset is the model as the tool would list it.
func (m model) ruleset() *ruleset {
	r := new(ruleset)
	for _, t := range slices.Sorted(stdmaps.Keys(m)) {
		for _, c := range slices.Sorted(stdmaps.Keys(m[t])) {
			r.declare(chainID{t, c})
			r.add(chainID{t, c}, m[t][c]...)
		}
	}
	return r
}

func (m model) apply(text string) error {
	var t map[string][]string
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		verb, rest, _ := strings.Cut(line, " ")
		chain, spec, _ := strings.Cut(rest, " ")
		switch {
		case line[0] == '*':
			t = m[line[1:]]
			continue
		case line == "COMMIT":
			t = nil
			continue
		case t == nil:
			return fmt.Errorf("%q outside of a table", line)
		case verb == "-N":
			if _, ok := t[chain]; ok {
				return fmt.Errorf("%q: chain exists", line)
			}
			t[chain] = nil
			continue
		}
		rules, ok := t[chain]
		if !ok {
			return fmt.Errorf("%q: no such chain", line)
		}
		if to := target(spec); ours(to) && verb != "-D" {
			if _, ok := t[to]; !ok {
				return fmt.Errorf("%q: no such target", line)
			}
		}
		at := slices.Index(rules, spec)
		switch verb {
		case "-A":
			t[chain] = append(rules, spec)
		case "-I":
			t[chain] = slices.Insert(rules, 0, spec)
		case "-C", "-D":
			if at < 0 {
				return fmt.Errorf("%q: no such rule", line)
			}
			if verb == "-D" {
				t[chain] = slices.Delete(rules, at, at+1)
			}
		case "-F":
			t[chain] = nil
		case "-E":
			if _, ok := t[spec]; ok {
				return fmt.Errorf("%q: chain exists", line)
			}
			t[spec] = rules
			delete(t, chain)
		case "-X":
			if len(rules) > 0 {
				return fmt.Errorf("%q: chain is not empty", line)
			}
			for c, rules := range t {
				for _, r := range rules {
					if target(r) == chain {
						return fmt.Errorf("%q: chain is in use by %s", line, c)
					}
				}
			}
			delete(t, chain)
		default:
			return fmt.Errorf("unknown line %q", line)
		}
	}
	return nil
}

// sorted is the model without what has no meaning: the order of the dispatch
// rules, that of rules for different ports, and marks of the past.
func (m model) sorted() model {
	out := m.clone()
	for chain := range m[natTable] {
		if followed, ok := strings.CutPrefix(chain, followedPrefix); ok {
			delete(out[natTable], chain)
			delete(out[natTable], fingerprintPrefix+followed)
		}
	}
	for _, chains := range out {
		for c, rules := range chains {
			if ours(c) {
				slices.SortStableFunc(rules, func(a, b string) int { return strings.Compare(key(a), key(b)) })
			}
			chains[c] = slices.Clip(rules)
			if len(rules) == 0 {
				chains[c] = nil
			}
		}
	}
	return out
}

func key(spec string) string {
	x := ParseFields(spec)
	if x.Port == 0 {
		if ours(x.Target) {
			return spec
		}
		return ""
	}
	return fmt.Sprintf("%s %d", x.Protocol, x.Port)
}

// generate makes an attachment of one of a few pods and ports, so that changes
// meet: no two have the same port, as the state would have it.
func generate(r *rand.Rand, i int, taken map[string]bool) *hostport.Attachment {
	a := attachment(fmt.Sprintf("id%d", i), addresses(fmt.Sprintf("10.244.%d.%d/24", r.IntN(2), 2+i%200)))
	if r.IntN(2) == 0 {
		a.Addresses = append(a.Addresses, netip.MustParsePrefix(fmt.Sprintf("fd00::%x/64", 2+i)))
	}
	for range 1 + r.IntN(4) {
		m := hostport.Mapping{
			HostPort:      uint16(4090 + r.IntN(24)),
			ContainerPort: uint16(1 + r.IntN(65535)),
			Protocol:      []hostport.Protocol{hostport.TCP, hostport.UDP, hostport.SCTP}[r.IntN(3)],
		}
		if taken[m.Port()] {
			continue
		}
		taken[m.Port()] = true
		if r.IntN(4) == 0 {
			special := m
			special.HostIP = netip.MustParseAddr([]string{"192.0.2.1", "2001:db8::1"}[r.IntN(2)])
			special.ContainerPort++
			a.Mappings = append(a.Mappings, special)
			if r.IntN(2) == 0 {
				continue
			}
		}
		a.Mappings = append(a.Mappings, m)
	}
	switch r.IntN(6) {
	case 0:
		a.Options = hostport.Options{}
	case 1:
		a.Options.MasqueradeAll = true
	case 2:
		a.Options.MarkMasqBit = r.IntN(32)
	case 3:
		a.Options.ConditionsV4 = []string{"!", "-d", "192.0.2.0/24"}
		a.Options.ConditionsV6 = []string{"-s", "2001:db8::1,2001:db8::2"}
	}
	if r.IntN(3) == 0 {
		a.LoopbackInterface = "br0"
	}
	return a
}

// walk takes random steps: ADD, DEL, the same ADD again, and a new owner for
// the ports of a dead one.
func walk(r *rand.Rand, i int, atts []*hostport.Attachment) (remove, add []*hostport.Attachment) {
	taken := make(map[string]bool)
	gone := func() *hostport.Attachment { return atts[r.IntN(len(atts))] }
	switch {
	case len(atts) == 0 || len(atts) < 8 && r.IntN(2) == 0:
	case r.IntN(3) == 0:
		old := gone()
		again := *old
		again.Mappings = old.Mappings[:r.IntN(len(old.Mappings)+1)]
		again.LoopbackInterface = []string{"", "br0"}[r.IntN(2)]
		return []*hostport.Attachment{old}, []*hostport.Attachment{&again}
	case r.IntN(2) == 0:
		return []*hostport.Attachment{gone()}, nil
	default:
		remove = []*hostport.Attachment{gone()}
	}
	for _, a := range atts {
		for _, m := range a.Mappings {
			taken[m.Port()] = !slices.Contains(remove, a)
		}
	}
	return remove, []*hostport.Attachment{generate(r, i, taken)}
}

// TestChangesAddUp: after any sequence of changes the kernel holds what a
// rewrite from nothing makes, and after the last DEL what it held before.
func TestChangesAddUp(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			there := map[hostport.Family]model{hostport.IPv4: newModel(), hostport.IPv6: newModel()}
			var atts []*hostport.Attachment
			seen := make(map[hostport.Family]string)
			for i := range 100 {
				n := &node{atts: atts}
				remove, add := walk(r, i, atts)
				if i >= 80 { // let all go
					if len(atts) == 0 {
						break
					}
					remove, add = atts[:1], nil
				}
				c := n.change(remove, add)
				atts = append(n.without(remove), add...)
				for _, f := range hostport.Families() {
					c.Seen = seen[f]
					seen[f] = applyToModel(t, f, there[f], c, atts)
				}
			}
			if len(atts) > 0 {
				return
			}
			for f, m := range there {
				if diff := cmp.Diff(newModel().sorted(), m.sorted()); diff != "" {
					t.Errorf("%s: left after all have gone (-want +got):\n%s", f, diff)
				}
			}
		})
	}
}

func applyToModel(t *testing.T, f hostport.Family, m model, c backend.Change, atts []*hostport.Attachment) (seen string) {
	t.Helper()
	text, seen := scriptsFor(t, f, c)
	before := m.clone()
	if text != "" {
		if err := m.apply(text); err != nil {
			t.Fatalf("%s: %v in\n%s", f, err, text)
		}
	}
	fresh := newModel()
	if text := rewritten(f, fresh.ruleset(), atts, c.After.Of(f)); text != "" {
		if err := fresh.apply(text); err != nil {
			t.Fatalf("%s: %v in\n%s", f, err, text)
		}
	}
	if diff := cmp.Diff(fresh.sorted(), m.sorted()); diff != "" {
		t.Fatalf("%s: a change differs from a rewrite (-rewrite +change):\n%s\n%s", f, diff, text)
	}
	// What a rewrite makes of what is there is the same, and its own inverse
	// leads back.
	if text := rewritten(f, m.ruleset(), atts, c.After.Of(f)); text != "" {
		again := m.clone()
		if err := again.apply(text); err != nil {
			t.Fatalf("%s: %v in\n%s", f, err, text)
		}
		if diff := cmp.Diff(fresh.sorted(), again.sorted()); diff != "" {
			t.Fatalf("%s: rewritten in place (-want +got):\n%s", f, diff)
		}
	}
	back, _ := scriptsFor(t, f, backend.Change{
		Remove: c.Add, Add: c.Remove, Before: c.After, After: c.Before, Seen: seen, Others: c.Others,
	})
	if back != "" {
		undone := m.clone()
		if err := undone.apply(back); err != nil {
			t.Fatalf("%s: inverse: %v in\n%s", f, err, back)
		}
		if diff := cmp.Diff(before.sorted(), undone.sorted()); diff != "" {
			t.Fatalf("%s: the inverse does not lead back (-before +after):\n%s", f, diff)
		}
	}
	return seen
}

// TestChangesAddUpInTheKernel walks as well, with Check as the judge.
func TestChangesAddUpInTheKernel(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		w.run(kubeProxy, "iptables-restore", "--noflush")
		before := w.both()
		r := rand.New(rand.NewPCG(7, 0))
		n := &node{b: w.b}
		done := w.steady()
		for i := range 30 {
			remove, add := walk(r, i, n.atts)
			n.apply(t, remove, add)
		}
		done()
		n.agrees(t)
		walked := netns.WithoutPast(w.both())
		n.rewrite(t)
		if diff := cmp.Diff(sortLines(walked), sortLines(w.both())); diff != "" {
			t.Errorf("-walked +rewritten:\n%s", diff)
		}
		for len(n.atts) > 0 {
			n.del(t, n.atts[0])
		}
		if diff := cmp.Diff(before, w.both()); diff != "" {
			t.Errorf("after all have gone (-before +after):\n%s", diff)
		}
	})
}
