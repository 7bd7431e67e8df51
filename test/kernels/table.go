package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// Comments that enclose the table.
const (
	tableBegin = "<!-- written by make test-kernels -->\n"
	tableEnd   = "<!-- end -->\n"
)

// writeTable puts the results between the comments of a Markdown file.
func writeTable(file string, results []result) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	_, after, ended := strings.Cut(rest, tableEnd)
	if !ok || !ended {
		return fmt.Errorf("%s: no %q and %q", file, strings.TrimSpace(tableBegin), strings.TrimSpace(tableEnd))
	}
	return os.WriteFile(file, []byte(before+tableBegin+"\n"+table(results)+"\n"+tableEnd+after), 0o644)
}

// table returns a table with a row for each scene and a column for each kernel.
// A cell names the backends, and combines both families if a scene has both.
func table(results []result) string {
	var kernels, scenes []string
	cells := map[string]map[string]map[string]bool{} // scene, kernel, backend: passed
	for _, r := range results {
		column := fmt.Sprintf("%s, %s", short(r.Release), r.Suite)
		if !slices.Contains(kernels, column) {
			kernels = append(kernels, column)
		}
		if cells[r.Scene] == nil {
			scenes = append(scenes, r.Scene)
			cells[r.Scene] = map[string]map[string]bool{}
		}
		if cells[r.Scene][column] == nil {
			cells[r.Scene][column] = map[string]bool{}
		}
		before, seen := cells[r.Scene][column][r.Backend]
		cells[r.Scene][column][r.Backend] = r.Passed && (before || !seen)
	}
	slices.Sort(scenes)
	slices.SortFunc(kernels, func(a, b string) int { return cmp.Or(cmp.Compare(minor(a), minor(b)), cmp.Compare(a, b)) })
	var b strings.Builder
	fmt.Fprintf(&b, "| | %s |\n|---|%s\n", strings.Join(kernels, " | "), strings.Repeat("---|", len(kernels)))
	for _, s := range scenes {
		fmt.Fprintf(&b, "| %s |", s)
		for _, k := range kernels {
			b.WriteString(" " + cell(cells[s][k]) + " |")
		}
		b.WriteString("\n")
	}
	return b.String() + "\n" + runs(results)
}

// runs returns the times of the results. Scenes that were rerun have a later
// time than the full run.
func runs(results []result) string {
	counts := map[time.Time]int{}
	for _, r := range results {
		counts[r.Run]++
	}
	var parts []string
	for _, t := range slices.SortedFunc(maps.Keys(counts), time.Time.Compare) {
		parts = append(parts, fmt.Sprintf("%s UTC: %d scenes", t.Format("2006-01-02 15:04"), counts[t]))
	}
	return strings.Join(parts, "; ") + ".\n"
}

// minor returns a number that orders versions of Linux.
func minor(column string) int {
	var major, minor int
	_, _ = fmt.Sscanf(column, "Linux %d.%d", &major, &minor) // others come first
	return major*1000 + minor
}

// cell returns the backends on which a scene passed, and those on which it
// failed.
func cell(backends map[string]bool) string {
	var passed, failed []string
	for name, ok := range backends {
		if ok {
			passed = append(passed, name)
		} else {
			failed = append(failed, name)
		}
	}
	slices.Sort(passed)
	slices.Sort(failed)
	switch {
	case len(backends) == 0:
		return "not run"
	case len(failed) > 0:
		return strings.TrimPrefix(strings.Join(passed, ", ")+"; **fails** on "+strings.Join(failed, ", "), "; ")
	case len(passed) == 3:
		return "all"
	}
	return strings.Join(passed, ", ")
}

// short returns the version in a kernel's release.
func short(release string) string {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return release
	}
	return "Linux " + parts[0] + "." + parts[1]
}
