package iptables

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Limits of the tools: a chain's name (XT_EXTENSION_MAXNAMELEN, less the
// terminator), and their parser's for one word (1.8.9: 1,023 bytes) and one line
// (10,239), part of which the rest of a rule needs. The last limit is our own: to
// how many rules the address lists in an attachment's conditions may expand.
const (
	maxChain        = 28
	maxWord         = 1000
	maxConditions   = 8000
	maxAlternatives = 64
)

// Validate refuses options that iptables cannot execute, or that would add more
// than matches to a rule. The error names the configuration key.
func (b *Backend) Validate(o hostport.Options) error {
	if err := validateChain(o.ExternalSetMarkChain); o.ExternalSetMarkChain != "" && err != nil {
		return fmt.Errorf("externalSetMarkChain: %w", err)
	}
	for _, f := range hostport.Families() {
		if err := validateConditions(o.Conditions(f)); err != nil {
			return fmt.Errorf("conditionsV%d: %w", f, err)
		}
	}
	return nil
}

func validateChain(name string) error {
	builtIn := []string{
		"ACCEPT", "DROP", "RETURN", "QUEUE", "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP", "MARK", "CONNMARK", "LOG", "NFLOG", "TRACE",
		preroutingChain, "INPUT", "FORWARD", outputChain, postroutingChain,
	}
	switch {
	case len(name) > maxChain || !plain(name):
		return fmt.Errorf("%q is not the name of a chain: want up to %d letters, digits and the like", name, maxChain)
	case ours(name):
		return fmt.Errorf("%q is the name of a chain of this plugin", name)
	case slices.Contains(builtIn, name):
		return fmt.Errorf("%q is built in: want a chain that sets a mark", name)
	}
	return nil
}

// plainRune reports whether a character is never syntax to the tools.
func plainRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.:", r)
}

// validateConditions accepts iptables matches, one word an element. It refuses
// words that could add anything else to the rule, wherever they are.
func validateConditions(words []string) error {
	size, rules := 0, 1
	for i, w := range words {
		if err := validateWord(w); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
		if i == 0 && w != "!" && w[0] != '-' {
			return fmt.Errorf("element 0: %q is not a match of iptables", w)
		}
		if w == "comment" && i > 0 && (words[i-1] == "-m" || words[i-1] == "--match") {
			return fmt.Errorf("element %d: comments tell the owner of a rule and cannot be matched", i)
		}
		if i > 0 && addressOption(words[i-1]) {
			if rules *= 1 + strings.Count(w, ","); rules > maxAlternatives {
				return fmt.Errorf("the lists of addresses make more than %d rules a port", maxAlternatives)
			}
			if i > 1 && words[i-2] == "!" && strings.Contains(w, ",") {
				// We would write a rule for each address, and every packet meets one of them.
				// The tool refuses such a list too.
				return fmt.Errorf("element %d: a list of addresses cannot be negated", i)
			}
		}
		size += len(quote(w)) + 1
	}
	if size > maxConditions {
		return fmt.Errorf("%d bytes: iptables takes at most %d", size, maxConditions)
	}
	if n := len(words); n > 0 && (slices.Contains([]string{"!", "-m", "-i", "-o"}, words[n-1]) || addressOption(words[n-1])) {
		return fmt.Errorf("element %d: %q needs something after it", n-1, words[n-1])
	}
	return nil
}

func validateWord(w string) error {
	syntax := func(r rune) bool { return unicode.IsControl(r) || strings.ContainsRune("\"\\'", r) }
	switch {
	case w == "" || len(w) > maxWord:
		return fmt.Errorf("has %d bytes: want 1 to %d", len(w), maxWord)
	case !utf8.ValidString(w) || strings.ContainsFunc(w, syntax):
		return fmt.Errorf("%q has a quotation mark, a backslash, or what does not print", w)
	case strings.ContainsFunc(w, unicode.IsSpace):
		return fmt.Errorf("%q has a space: each word is an element of its own", w)
	case w[0] == '-' && !matches(w):
		return fmt.Errorf("%q is not a match", w)
	case w[0] == '-' && !addressOption(w) && shortens(w):
		return fmt.Errorf("%q: write -s or -d, and the address as the next element", w)
	}
	return nil
}

// shortens reports whether getopt completes an option to one of addressOptions, or takes
// the address from the same word: "--sour", "--source=192.0.2.1".
func shortens(option string) bool {
	name, _, _ := strings.Cut(option, "=")
	return slices.ContainsFunc(addressOptions[:], func(whole string) bool { return strings.HasPrefix(whole, name) })
}

// matches reports whether an option is part of a match, and is not completed by
// getopt to one that is a verb, a target or a table, or that our rules set.
func matches(option string) bool {
	long, ok := strings.CutPrefix(option, "--")
	if !ok {
		// Short options may be joined and carry their value ("-fjDROP"): only
		// single ones can be recognised.
		return slices.Contains([]string{"-s", "-d", "-i", "-o", "-m", "-f"}, option)
	}
	name, _, _ := strings.Cut(long, "=")
	if name == "set" || name == "pol" {
		return true // of the matches recent and policy, and exact there
	}
	return !slices.ContainsFunc([]string{
		"append", "check", "delete", "insert", "replace", "list", "list-rules", "flush", "zero",
		"new-chain", "delete-chain", "rename-chain", "policy", "table", "jump", "goto",
		"protocol", "numeric", "verbose", "wait", "wait-interval", "exact", "version", "help",
		"line-numbers", "modprobe", "set-counters", "ipv4", "ipv6", "comment",
	}, func(refused string) bool { return strings.HasPrefix(refused, name) })
}
