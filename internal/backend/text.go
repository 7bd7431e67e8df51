package backend

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// OneLine returns a text of another program for a log or an error message: its
// lines joined by semicolons, Printable, cut to at most that many bytes.
func OneLine(s string, most int) string {
	var lines []string
	for line := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if line = strings.TrimSpace(strings.Map(Printable, line)); line != "" {
			lines = append(lines, line)
		}
	}
	s = strings.Join(lines, "; ")
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// Printable returns r, a space for a tab, and "?" for line breaks and for what a
// terminal would obey instead of showing. It is for strings.Map, on texts from outside.
func Printable(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case r == utf8.RuneError || !unicode.IsPrint(r): // controls, directional marks, not UTF-8
		return '?'
	}
	return r
}
