package iptables

import "strings"

// quote writes s as one word for iptables-restore, whatever it holds. A line
// break cannot be part of a word there: control characters become "_".
func quote(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, s)
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plainRune(r) && !strings.ContainsRune("/@%+,=![]", r) }) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Split takes a line of iptables-save apart into words, as iptables-restore
// does: only double quotes quote, and only within them a backslash escapes. It
// returns nil if a quotation mark is not closed.
func Split(line string) []string {
	words := make([]string, 0, strings.Count(line, " ")+1)
	var word []byte
	var inWord, quoted, escaped bool
	for i := range len(line) {
		c := line[i]
		switch {
		case escaped:
			word = append(word, c)
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
			inWord = true
		case !quoted && (c == ' ' || c == '\t'):
			if inWord {
				words = append(words, string(word))
			}
			word = word[:0]
			inWord = false
		default:
			word = append(word, c)
			inWord = true
		}
	}
	if quoted {
		return nil
	}
	if inWord {
		words = append(words, string(word))
	}
	return words
}
