package iptables

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// FuzzSave: whatever the tool prints, it is read or refused, and what follows
// from it are lines that say nothing but what we meant.
func FuzzSave(f *testing.F) {
	f.Add(lost)
	f.Add(kubeProxy)
	f.Add("# Table `nat' is incompatible, use 'nft' tool.\n")
	f.Add("*nat\n:CNI-HP-DNAT - [0:0]\n[1:60] -A CNI-HP-DNAT -j DNAT\nCOMMIT\n")
	f.Add("*nat\n:PREROUTING ACCEPT\n-A PREROUTING -m comment --comment \"a \\\" -j CNI-HP-X\" -j CNI-HP-DNAT\nCOMMIT")
	f.Add("*nat\n:CNI-HP-TCP-1F9 -\n-A CNI-HP-TCP-1F9 -p tcp --dport 8080 -j MARK --set-xmark 0x2000/0x2000\n" +
		"-A CNI-HP-TCP-1F9 -p tcp --dport 8080 -m comment --comment \"a eth0 1 n p/q\" -j DNAT --to-destination [fd00::1]:80\nCOMMIT\n")
	f.Fuzz(func(t *testing.T, text string) {
		there := new(ruleset)
		if there.parse(text) != nil {
			return
		}
		for _, family := range hostport.Families() {
			wellFormed(t, rewritten(family, there, nil, 0))
			wellFormed(t, rewritten(family, there, []*hostport.Attachment{everything()}, 1))
			found := make(backend.Recovered)
			readOwners(found, family, there)
			owners := found.All(backend.Iptables)
			for _, a := range owners {
				if err := new(Backend).Validate(a.Options); err != nil {
					t.Errorf("recovered options %+v are refused: %v", a.Options, err)
				}
				if len(a.Mappings) == 0 || len(a.Forwards(family)) == 0 {
					t.Errorf("recovered an attachment that maps nothing: %+v", a)
				}
				if a.ContainerID == "" || a.IfName == "" {
					t.Errorf("recovered an attachment without a key: %+v", a)
				}
			}
			wellFormed(t, rewritten(family, new(ruleset), owners, 1))
			audited(family, there, []*hostport.Attachment{everything()}, 1)
		}
	})
}

// FuzzList: whatever the tool prints, it is what was asked for, or refused.
func FuzzList(f *testing.F) {
	f.Add("-P PREROUTING ACCEPT\n-A PREROUTING ! -i lo -j CNI-HP-GUARD\n-N CNI-HP-DNAT\n-P PREROUTING ACCEPT\n")
	f.Add("-P PREROUTING ACCEPT\n-N CNI-HP-DNAT\n-A CNI-HP-OTHER -j ACCEPT\n-P PREROUTING ACCEPT")
	f.Add("-A PREROUTING -j ACCEPT\n")
	f.Add("Zeroing chain `PREROUTING'\n")
	asked := []chainID{{rawTable, preroutingChain}, {natTable, dnatChain}, {natTable, preroutingChain}}
	f.Fuzz(func(t *testing.T, text string) {
		there := new(ruleset)
		if there.parse(text, asked...) != nil {
			return
		}
		for _, p := range asked {
			if !there.has(p) {
				t.Errorf("lacks %v", p)
			}
		}
		rules := 0
		for _, specs := range there.rules {
			rules += len(specs)
		}
		if lines := strings.Count(text, "-A "); rules > lines {
			t.Errorf("%d rules of %d", rules, lines)
		}
	})
}

// wellFormed fails if a line of the text is none that we write.
func wellFormed(t *testing.T, text string) {
	t.Helper()
	if text == "" {
		return
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		words := Split(line)
		switch {
		case words == nil:
			t.Errorf("%q has an open quotation mark", line)
		case line == "COMMIT" || line == "*raw" || line == "*nat":
		case len(words) < 2 || !slices.Contains([]string{"-A", "-I", "-C", "-D", "-E", "-F", "-N", "-X"}, words[0]):
			t.Errorf("unknown line %q", line)
		case words[0] != "-D" && !ours(words[1]) && (len(words) < 4 || !ours(target(line))):
			t.Errorf("touches a chain of others: %q", line)
		}
	}
}

// FuzzWord: any string is one word to the tool, and itself unless it has
// control characters.
func FuzzWord(f *testing.F) {
	for _, s := range []string{"", "a", "a b", `a"b`, `\`, "a\nCOMMIT", "-j", "\x00", "\xff", "é", "'", "!", "#", " "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := quote(s)
		if strings.ContainsAny(q, "\n\r\x00") {
			t.Fatalf("%q has a control character", q)
		}
		words := Split(q + " -j " + q)
		if len(words) != 3 || words[1] != "-j" {
			t.Fatalf("%q is read as %q", q, words)
		}
		want := strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return '_'
			}
			return r
		}, s)
		if words[0] != want {
			t.Errorf("%q is read as %q, want %q", q, words[0], want)
		}
	})
}

// FuzzConditions: what Validate accepts ends up as those words and no others,
// and the rule still leads where it should.
func FuzzConditions(f *testing.F) {
	f.Add("!\t-d\t192.0.2.0/24")
	f.Add("-s\t192.0.2.1,192.0.2.2\t-m\tset\t--match-set\ta\tsrc")
	f.Add("-j\tACCEPT")
	f.Add("--jum=x")
	f.Add("-m\tcomment\t--comment\tx")
	f.Add("-s\ta\"\n-A")
	f.Fuzz(func(t *testing.T, joined string) {
		conditions := strings.Split(joined, "\t")
		if new(Backend).Validate(hostport.Options{ConditionsV4: conditions}) != nil {
			return
		}
		for _, text := range alternatives(conditions) {
			words := Split(text + " -j CNI-HP-IF-1")
			want := append(slices.Clone(conditions), "-j", "CNI-HP-IF-1")
			for i := range conditions { // of a list of addresses, each is in one rule
				if i > 0 && addressOption(want[i-1]) && len(words) == len(want) && slices.Contains(strings.Split(want[i], ","), words[i]) {
					want[i] = words[i]
				}
			}
			if diff := cmp.Diff(want, words); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			jumps := 0
			for _, w := range words {
				// getopt takes a short option's value, and further options,
				// from the same word, and a long one by its beginning.
				if strings.HasPrefix(w, "-j") || strings.HasPrefix(w, "-g") ||
					len(w) > 2 && (strings.HasPrefix("--jump", w) || strings.HasPrefix("--goto", w)) {
					jumps++
				}
			}
			if jumps != 1 {
				t.Errorf("%q has %d jumps", words, jumps)
			}
		}
	})
}

// FuzzAttachment: whatever a runtime says of a pod, and whatever a damaged
// record holds, the rules are lines of ours.
func FuzzAttachment(f *testing.F) {
	f.Add("3f2a", "eth0", "net", "ns", "pod", "KUBE-MARK-MASQ", "-s", uint16(8080), 13)
	f.Add("a\nCOMMIT", "e\"", "\\", "-j", "ACCEPT", "A\n-F", "\"\nCOMMIT", uint16(1), 31)
	f.Add(strings.Repeat("x", 300), "eth0", "\x1b[31m", "\xff", "é", "", "", uint16(65535), 0)
	f.Fuzz(func(t *testing.T, id, ifname, network, ns, pod, chain, condition string, port uint16, bit int) {
		a := attachment(id)
		a.IfName, a.Network, a.Pod = ifname, network, hostport.Pod{Namespace: ns, Name: pod}
		a.Addresses = append(a.Addresses, netip.MustParsePrefix("fd00::1/64"))
		a.Mappings = []hostport.Mapping{{HostPort: port, ContainerPort: port, Protocol: hostport.UDP}}
		a.Options = hostport.Options{SNAT: true, MarkMasqBit: bit & 31, ExternalSetMarkChain: chain}
		if condition != "" {
			a.Options.ConditionsV4 = []string{condition}
		}
		for _, family := range hostport.Families() {
			one := []*hostport.Attachment{a}
			for _, c := range []backend.Change{
				change(nil, nil, one),
				change([]*hostport.Attachment{everything()}, one, nil),
			} {
				text, _ := scriptsFor(t, family, c)
				wellFormed(t, text)
			}
			wellFormed(t, rewritten(family, new(ruleset), one, 1))
		}
	})
}
