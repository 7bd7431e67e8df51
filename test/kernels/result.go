package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// result is the result of one scene in one guest.
type result struct {
	Suite   string `json:"suite"`
	Release string `json:"release"`
	Backend string `json:"backend"`
	// Family is empty for scenes that cover both, or have a separate boot.
	Family string `json:"family,omitempty"`
	Scene  string `json:"scene"`
	Passed bool   `json:"passed"`
	// Run is the start time of the run.
	Run time.Time `json:"run"`
}

// key returns what identifies the same scene in another run.
func (r result) key() [4]string { return [4]string{r.Suite, r.Backend, r.Family, r.Scene} }

// parse reads the output of go test -v.
func parse(suite, log string) []result {
	var all []result
	release := ""
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		if r, ok := strings.CutPrefix(line, "kernels: Linux "); ok {
			release = r
		}
		verdict, rest, ok := strings.Cut(line, ": ")
		passed := verdict == "--- PASS"
		if !ok || !passed && verdict != "--- FAIL" {
			continue
		}
		name, _, _ := strings.Cut(rest, " (")
		parts := strings.Split(strings.ReplaceAll(name, "_", " "), "/")
		r := result{Suite: suite, Release: release, Passed: passed}
		switch {
		case len(parts) == 4 && parts[0] == "TestKernels":
			r.Backend, r.Family, r.Scene = parts[1], parts[2], parts[3]
		case len(parts) == 2 && parts[0] == "TestWithoutIPv6":
			r.Backend, r.Scene = parts[1], "a kernel with ipv6.disable=1"
		case len(parts) == 2 && parts[0] == "TestReboot":
			r.Backend, r.Scene = parts[1], "a reboot with a restored ruleset"
		case len(parts) == 3 && parts[0] == "TestLackingKernel":
			r.Backend, r.Scene = parts[1], "ADD on a kernel without "+strings.ReplaceAll(parts[2], " ", "_") // a module
		case len(parts) == 3 && parts[0] == "TestControlGroups":
			r.Backend, r.Scene = parts[2], parts[1]+" with control groups of version 2"
		default:
			continue
		}
		all = append(all, r)
	}
	return all
}

// skips reports whether a test was skipped: a test that is skipped here runs
// nowhere.
func skips(log string) bool { return strings.Contains(log, "--- SKIP: ") }

func count(all []result) (passed, failed int) {
	for _, r := range all {
		if r.Passed {
			passed++
		} else {
			failed++
		}
	}
	return passed, failed
}

// keep writes the results file and the table.
func keep(o options, found []result, run time.Time) error {
	for i := range found {
		found[i].Run = run.Truncate(time.Second)
	}
	all := found
	if o.results != "" {
		old, err := readResults(o.results)
		if err != nil {
			return err
		}
		if o.all && o.scenes == "" && o.boots.String() == "" {
			old = nil // all results are new
		}
		all = merge(old, found)
		if err := writeResults(o.results, all); err != nil {
			return err
		}
	}
	if o.table == "" {
		return nil
	}
	return writeTable(o.table, all)
}

// merge replaces the results of scenes that were rerun, and keeps the others. A
// scene that failed in one of its boots has failed.
func merge(old, found []result) []result {
	again := map[[4]string]int{}
	var all []result
	for _, r := range found {
		if i, ok := again[r.key()]; ok {
			all[i].Passed = all[i].Passed && r.Passed
			continue
		}
		again[r.key()] = len(all)
		all = append(all, r)
	}
	var kept []result
	for _, r := range old {
		if _, ok := again[r.key()]; !ok {
			kept = append(kept, r)
		}
	}
	return append(kept, all...)
}

// readResults reads a results file. It returns none if the file does not exist.
func readResults(file string) ([]result, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []result
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var r result
		if err := d.Decode(&r); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, r)
	}
}

func writeResults(file string, all []result) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for _, r := range all {
		if err := e.Encode(r); err != nil {
			return err
		}
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}
