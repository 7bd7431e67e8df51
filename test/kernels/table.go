package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Comments between which the table stands.
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

// table has a line for each scene and a column for each kernel. A cell has a mark
// for each backend.
func table(results []result) string {
	var kernels, scenes []string
	cells := map[string]map[string]map[string]bool{} // scene, kernel, backend: passed
	for _, r := range results {
		column := fmt.Sprintf("%s, %s", short(r.release), r.suite)
		if !slices.Contains(kernels, column) {
			kernels = append(kernels, column)
		}
		if cells[r.scene] == nil {
			scenes = append(scenes, r.scene)
			cells[r.scene] = map[string]map[string]bool{}
		}
		if cells[r.scene][column] == nil {
			cells[r.scene][column] = map[string]bool{}
		}
		before, seen := cells[r.scene][column][r.backend]
		cells[r.scene][column][r.backend] = r.passed && (before || !seen)
	}
	slices.Sort(scenes)
	var b strings.Builder
	fmt.Fprintf(&b, "| | %s |\n|---|%s\n", strings.Join(kernels, " | "), strings.Repeat("---|", len(kernels)))
	for _, s := range scenes {
		fmt.Fprintf(&b, "| %s |", s)
		for _, k := range kernels {
			b.WriteString(" " + cell(cells[s][k]) + " |")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// cell names the backends on which a scene passed, and those on which it failed.
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

// short is the version in a kernel's release.
func short(release string) string {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return release
	}
	return "Linux " + parts[0] + "." + parts[1]
}
