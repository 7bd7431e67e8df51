// Package crio reads from CRI-O's configuration whether CRI-O serves host ports
// itself. It is not a TOML parser.
package crio

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Places returns the locations of CRI-O's configuration: a file, and a
// directory of files that are read after it, in alphabetical order.
func Places() []string { return []string{"/etc/crio/crio.conf", "/etc/crio/crio.conf.d"} }

// Mapping says whether CRI-O serves host ports.
type Mapping int

// Without a configuration CRI-O is not on the node, or uses its defaults, with
// which it serves host ports itself.
const (
	NoConfiguration Mapping = iota
	ByItself
	ByOthers
)

// Read reads the files, and the files in directories. The last one that has the
// key counts. Files that cannot be read are skipped.
func Read(places []string) Mapping {
	m := NoConfiguration
	for _, place := range places {
		files := []string{place}
		if entries, err := os.ReadDir(place); err == nil { // sorted by name
			files = files[:0]
			for _, e := range entries {
				files = append(files, filepath.Join(place, e.Name()))
			}
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			m = max(m, ByItself)
			switch disabled(content) {
			case "true":
				m = ByOthers
			case "false":
				m = ByItself
			}
		}
	}
	return m
}

// disabled returns the unparsed value of crio.runtime.disable_hostport_mapping,
// or "".
func disabled(content []byte) (value string) {
	var table []string
	lines := bufio.NewScanner(bytes.NewReader(content))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			table = keys(strings.TrimSuffix(name, "]"))
			continue
		}
		if key, v, ok := strings.Cut(line, "="); ok && slices.Equal(append(slices.Clone(table), keys(key)...), []string{"crio", "runtime", "disable_hostport_mapping"}) {
			value = strings.TrimSpace(v)
		}
	}
	return value
}

// keys splits a dotted key.
func keys(dotted string) []string {
	var out []string
	for k := range strings.SplitSeq(dotted, ".") {
		out = append(out, strings.Trim(strings.TrimSpace(k), `"'`))
	}
	return out
}
