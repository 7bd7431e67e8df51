package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Result is one line of the results file. Package bench, which writes it,
// describes the fields.
type Result struct {
	Section string            `json:"section"`
	Subject string            `json:"subject"`
	Labels  map[string]string `json:"labels"`
	Unit    string            `json:"unit"`
	Runs    int               `json:"runs"`
	Min     float64           `json:"min"`
	Low     float64           `json:"low"`
	Median  float64           `json:"median"`
	High    float64           `json:"high"`
	Max     float64           `json:"max"`
}

// Results holds all lines of a file.
type Results []Result

// read reads a results file.
func read(path string) (Results, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all Results
	for dec := json.NewDecoder(f); ; {
		var r Result
		err := dec.Decode(&r)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		all = append(all, r)
	}
}

// has reports whether the result has these conditions, given as pairs of name
// and value.
func (r Result) has(conditions []string) bool {
	for i := 0; i+1 < len(conditions); i += 2 {
		if r.Labels[conditions[i]] != conditions[i+1] {
			return false
		}
	}
	return true
}

// all returns the results of a subject in a section, under conditions.
func (rs Results) all(section, subject string, conditions ...string) Results {
	var out Results
	for _, r := range rs {
		if r.Section == section && r.Subject == subject && r.has(conditions) {
			out = append(out, r)
		}
	}
	return out
}

// one returns the only result under these conditions, or one without runs.
func (rs Results) one(section, subject string, conditions ...string) Result {
	if found := rs.all(section, subject, conditions...); len(found) > 0 {
		return found[len(found)-1]
	}
	return Result{}
}

// values returns the values of a label, in the order of the file.
func (rs Results) values(section, label string) []string {
	var out []string
	seen := map[string]bool{}
	for _, r := range rs {
		if v, ok := r.Labels[label]; ok && r.Section == section && !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

// plus returns the sum of two medians, for steps that always occur together.
// The bounds are added as well, which makes them wider than those of the sum.
func (r Result) plus(o Result) Result {
	if r.Runs == 0 || o.Runs == 0 {
		return Result{}
	}
	return Result{
		Unit: r.Unit, Runs: min(r.Runs, o.Runs), Min: r.Min + o.Min, Low: r.Low + o.Low,
		Median: r.Median + o.Median, High: r.High + o.High, Max: r.Max + o.Max,
	}
}
