package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// table is a Markdown table.
type table struct {
	head []string
	rows [][]string
}

func newTable(head ...string) *table { return &table{head: head} }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) String() string {
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(t.head)
	b.WriteString("|---" + strings.Repeat("|--:", len(t.head)-1) + "|\n")
	for _, r := range t.rows {
		line(r)
	}
	return b.String()
}

const missing = "–"

// figure formats a number with a suitable number of digits.
func figure(x float64) string {
	switch {
	case math.Abs(x) >= 1000:
		return thousands(int(math.Round(x)))
	case math.Abs(x) >= 100:
		return fmt.Sprintf("%.0f", x)
	case math.Abs(x) >= 10:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// spread returns a median with the middle half of the observations.
func spread(r Result) string {
	if r.Runs == 0 {
		return missing
	}
	return fmt.Sprintf("%s (%s–%s)", figure(r.Median), figure(r.Low), figure(r.High))
}

// times returns a ratio of medians.
func times(of, to Result) string {
	if of.Runs == 0 || to.Runs == 0 || to.Median == 0 {
		return missing
	}
	return fmt.Sprintf("%.1f×", of.Median/to.Median)
}

func percent(of, to Result) string {
	if of.Runs == 0 || to.Runs == 0 || to.Median == 0 {
		return missing
	}
	return fmt.Sprintf("%.0f %%", 100*of.Median/to.Median)
}

func number(s string) string {
	n, err := strconv.Atoi(s)
	if err != nil {
		return s
	}
	return thousands(n)
}
