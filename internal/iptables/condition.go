package iptables

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// alternatives are the conditions of an attachment, one list of words for each
// rule that it takes: iptables makes a rule for each address of a list such as
// "-s 192.0.2.1,192.0.2.2".
func alternatives(words []string) [][]string {
	if len(words) == 0 {
		return nil
	}
	out := [][]string{nil}
	for i, w := range words {
		parts := []string{w}
		if i > 0 && addressOption(words[i-1]) {
			parts = strings.Split(w, ",")
		}
		next := make([][]string, 0, len(out)*len(parts))
		for _, o := range out {
			for _, p := range parts {
				next = append(next, append(slices.Clip(o), p))
			}
		}
		out = next
	}
	return out
}

func addressOption(w string) bool {
	switch w {
	case "-s", "--src", "--source", "-d", "--dst", "--destination":
		return true
	}
	return false
}

// Limits of the tools' parser: one word (1.8.9: 1,023 bytes) and one line
// (10,239), of which the rest of a rule needs some.
const (
	maxWord       = 1000
	maxConditions = 8000
)

// refusedOptions are the options of iptables itself that are not a match:
// verbs, targets, tables, and what is ours to say.
var refusedOptions = []string{
	"append", "check", "delete", "insert", "replace", "list", "list-rules", "flush", "zero",
	"new-chain", "delete-chain", "rename-chain", "policy", "table", "jump", "goto",
	"protocol", "numeric", "verbose", "wait", "wait-interval", "exact", "version", "help",
	"line-numbers", "modprobe", "set-counters", "ipv4", "ipv6", "comment",
}

// validateConditions accepts matches of iptables, one word an element. Words
// that could make the rule anything else are refused wherever they stand.
func validateConditions(words []string) error {
	size := 0
	for i, w := range words {
		if err := validateWord(w); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
		if w == "comment" && i > 0 && (words[i-1] == "-m" || words[i-1] == "--match") {
			return fmt.Errorf("element %d: comments tell the owner of a rule and cannot be matched", i)
		}
		size += len(quote(w)) + 1
	}
	if size > maxConditions {
		return fmt.Errorf("%d bytes: iptables takes at most %d", size, maxConditions)
	}
	if n := len(words); n > 0 && (words[n-1] == "!" || words[n-1] == "-m" || addressOption(words[n-1])) {
		return fmt.Errorf("element %d: %q needs something after it", n-1, words[n-1])
	}
	if n := len(alternatives(words)); n > maxAlternatives {
		return fmt.Errorf("the lists of addresses make %d rules a port: want at most %d", n, maxAlternatives)
	}
	return nil
}

const maxAlternatives = 64

func validateWord(w string) error {
	switch {
	case w == "":
		return errors.New("is empty")
	case len(w) > maxWord:
		return fmt.Errorf("is longer than %d bytes", maxWord)
	case !utf8.ValidString(w):
		return fmt.Errorf("%q is not UTF-8", w)
	case strings.ContainsFunc(w, unicode.IsControl):
		return fmt.Errorf("%q has a control character", w)
	case strings.ContainsFunc(w, unicode.IsSpace):
		return fmt.Errorf("%q has a space: each word is an element of its own", w)
	case strings.ContainsAny(w, "\"\\'"):
		return fmt.Errorf("%q has a quotation mark or backslash", w)
	case strings.HasPrefix(w, "--"):
		return validateLong(w)
	case w[0] == '-':
		// Short options may be joined and carry their value ("-fjDROP"): only
		// single ones can be told apart.
		switch w {
		case "-s", "-d", "-i", "-o", "-m", "-f":
			return nil
		}
		return fmt.Errorf("%q is not a match", w)
	}
	return nil
}

// validateLong refuses an option that is, or that getopt would complete to,
// one that is not a match.
func validateLong(w string) error {
	name, _, _ := strings.Cut(w[2:], "=")
	switch name {
	case "set", "pol":
		return nil // of the matches recent and policy, and exact there
	case "":
		return fmt.Errorf("%q is not a match", w)
	}
	for _, r := range refusedOptions {
		if strings.HasPrefix(r, name) {
			return fmt.Errorf("%q is not a match", w)
		}
	}
	return nil
}
