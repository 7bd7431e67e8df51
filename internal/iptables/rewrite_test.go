package iptables

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// chainsOf are the rules of each chain: the order in which chains are listed
// differs between the variants and means nothing.
func chainsOf(t testing.TB, saved string) map[string][]string {
	t.Helper()
	out := make(map[string][]string)
	table := ""
	for line := range strings.SplitSeq(saved, "\n") {
		switch {
		case strings.HasPrefix(line, "*"):
			table = line
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			if _, ok := out[table+" "+name]; !ok && ours(name) {
				out[table+" "+name] = nil
			}
		case strings.HasPrefix(line, "-A "):
			name, spec, _ := strings.Cut(line[3:], " ")
			out[table+" "+name] = append(out[table+" "+name], spec)
		}
	}
	return out
}

func (w *world) chains(f hostport.Family) map[string][]string {
	w.t.Helper()
	return chainsOf(w.t, w.saved(f))
}

func TestRewriteMakesWhatApplyMakes(t *testing.T) {
	eachSample(t, func(t *testing.T, w *world, a *hostport.Attachment) {
		n := &node{b: w.b}
		n.add(t, a)
		for _, f := range hostport.Families() {
			want := w.chains(f)
			for _, from := range []string{"itself", "nothing", "a flush"} {
				switch from {
				case "nothing":
					rewrite(t, w.b, nil)
					if left := w.both(); strings.Contains(left, prefix) {
						t.Errorf("rules after a rewrite to none:\n%s", left)
					}
				case "a flush":
					w.run("", command(f), "-t", "nat", "-F")
				}
				n.rewrite(t)
				if diff := cmp.Diff(want, w.chains(f)); diff != "" {
					t.Errorf("%s: rules rewritten from %s (-Apply +Rewrite):\n%s", f, from, diff)
				}
			}
		}
	})
}

// A negated option without a value stands before "-j CHAIN" and does not swallow it.
func TestRewriteKeepsNegatedFlags(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		a := attachment("a", maps("8080:80"))
		a.Options.ConditionsV4 = []string{"!", "-f"}
		n := &node{b: w.b}
		n.add(t, a)
		want := w.chains(hostport.IPv4)
		rewrite(t, w.b, nil)
		n.rewrite(t)
		if diff := cmp.Diff(want, w.chains(hostport.IPv4)); diff != "" {
			t.Errorf("rules (-Apply +Rewrite):\n%s", diff)
		}
		owners, err := w.b.Owners(t.Context())
		if err != nil || len(owners) != 1 {
			t.Fatalf("%d owners: %v", len(owners), err)
		}
		if diff := cmp.Diff(a.Options.ConditionsV4, owners[0].Options.ConditionsV4); diff != "" {
			t.Errorf("conditions (-want +got):\n%s", diff)
		}
	})
}

// TestRewriteKeepsItsPlace: what another program appended behind our jumps stays
// behind them.
func TestRewriteKeepsItsPlace(t *testing.T) {
	eachVariant(t, func(t *testing.T, w *world) {
		n := &node{b: w.b}
		n.add(t, attachment("a", maps("8080:80")))
		w.run("", "iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "8080", "-j", "REDIRECT", "--to-ports", "9090")
		w.run("", "iptables", "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "9", "-j", "DROP")
		before := w.both()
		n.rewrite(t)
		if diff := cmp.Diff(before, w.both()); diff != "" {
			t.Errorf("a rewrite of the same rules (-before +after):\n%s", diff)
		}
	})
}
