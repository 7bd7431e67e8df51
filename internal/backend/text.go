package backend

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// OneLine returns a text of another program for a log or an error message: its
// lines joined by semicolons, what does not print (control characters,
// directional marks, what is not UTF-8) as "?", cut to at most that many bytes.
func OneLine(s string, most int) string {
	var lines []string
	for line := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if line = strings.TrimSpace(strings.Map(printable, line)); line != "" {
			lines = append(lines, line)
		}
	}
	s = strings.Join(lines, "; ")
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

func printable(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case r == utf8.RuneError || !unicode.IsPrint(r):
		return '?'
	}
	return r
}
