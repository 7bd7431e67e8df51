package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/explain"
)

// Colours, as terminal escape sequences.
const (
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	reset  = "\x1b[0m"
)

// page wraps text at the width of the terminal, and colours it there.
type page struct {
	w        io.Writer
	width    int
	colour   bool
	terminal bool
}

// newPage returns a page for w. COLUMNS sets the width; NO_COLOR turns off
// colours, which are for terminals only.
func newPage(w io.Writer) *page {
	p := &page{w: w, width: 80}
	if f, ok := w.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			p.terminal = true
			p.colour = os.Getenv("NO_COLOR") == ""
			if size.Col > 0 {
				p.width = int(size.Col)
			}
		}
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil {
		p.width = n
	}
	p.width = max(p.width, 40)
	return p
}

func (p *page) line(s string) { fmt.Fprintln(p.w, s) }

// paint colours a text if the page has colours.
func (p *page) paint(colour, s string) string {
	if !p.colour || colour == "" {
		return s
	}
	return colour + s + reset
}

// paragraph prints wrapped text, indented, lines after the first by hang more.
func (p *page) paragraph(indent, hang int, colour, text string) {
	for i, l := range wrap(printable(text), p.width-indent-hang) {
		by := indent
		if i > 0 {
			by += hang
		}
		p.line(strings.Repeat(" ", by) + p.paint(colour, l))
	}
}

// marked prints a mark, a name padded to width, and wrapped text beside them.
func (p *page) marked(indent int, m explain.Mark, name string, width int, text string) {
	sign, colour := "?", yellow
	switch m {
	case explain.MarkOK:
		sign, colour = "✓", green
	case explain.MarkFail:
		sign, colour = "✗", red
	case explain.MarkWarn:
		sign = "!"
	}
	prefix := p.paint(colour, sign) + " " + name + strings.Repeat(" ", width-len(name)+2)
	for i, l := range wrap(printable(text), p.width-indent-width-4) {
		if i > 0 {
			prefix = strings.Repeat(" ", width+4)
		}
		p.line(strings.Repeat(" ", indent) + prefix + l)
	}
}

// wrap breaks text at spaces. It does not break a word that is longer than the
// width, so that it can be copied.
func wrap(text string, width int) []string {
	var out []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			out = append(out, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(out, line)
}
