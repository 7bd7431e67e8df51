package iptables

import (
	"errors"
	"strings"
)

// quote writes s as one word for iptables-restore, whatever it holds. A line
// break cannot be part of a word there: control characters become "_".
func quote(s string) string {
	plain := s != ""
	var b strings.Builder
	for _, r := range s {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("._:/@%+,=!-[]", r):
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			plain = false
			b.WriteByte('_')
		case r == '"' || r == '\\':
			plain = false
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			plain = false
			b.WriteRune(r)
		}
	}
	if plain {
		return b.String()
	}
	return `"` + b.String() + `"`
}

var errOpenQuote = errors.New("quotation mark is not closed")

// Split takes a line of iptables-save apart into words, as iptables-restore
// does: only double quotes quote, and only within them a backslash escapes.
func Split(line string) ([]string, error) {
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
	if quoted || escaped {
		return nil, errOpenQuote
	}
	if inWord {
		words = append(words, string(word))
	}
	return words, nil
}
