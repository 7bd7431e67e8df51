package bench

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strconv"
)

// Result is one measured figure with its conditions.
type Result struct {
	// Section is the part of the report: "control", "start", "data", ...
	Section string `json:"section"`
	// Subject is what was measured: "hostport", "portmap", "empty program", ...
	Subject string `json:"subject"`
	// Labels are the conditions: backend, services, mappings, family, verb.
	Labels map[string]string `json:"labels"`
	// Unit is the unit of the figures: "ms", "conn/s", "KiB", "processes".
	Unit string `json:"unit"`
	// Runs is how often it was measured.
	Runs int     `json:"runs"`
	Min  float64 `json:"min"`
	// Low and High enclose the middle half of the observations: a single outlier
	// does not change that spread.
	Low    float64 `json:"low"`
	Median float64 `json:"median"`
	High   float64 `json:"high"`
	Max    float64 `json:"max"`
}

// Summarise computes a Result's figures from single observations, with four
// significant digits: more are noise, and double the size of a results file.
func Summarise(xs []float64) Result {
	if len(xs) == 0 {
		return Result{}
	}
	s := slices.Clone(xs)
	slices.SortFunc(s, cmp.Compare)
	at := func(q float64) float64 {
		text := strconv.FormatFloat(quantile(s, q), 'g', 4, 64)
		x, err := strconv.ParseFloat(text, 64)
		if err != nil {
			panic(err) // it parses a number that was just printed
		}
		return x
	}
	return Result{Runs: len(s), Min: at(0), Low: at(0.25), Median: at(0.5), High: at(0.75), Max: at(1)}
}

// quantile returns a quantile of sorted observations, interpolated if
// necessary.
func quantile(s []float64, q float64) float64 {
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 == len(s) {
		return s[i]
	}
	return s[i] + (s[i+1]-s[i])*(at-float64(i))
}

// Write appends results to a file, one JSON object a line, so that a section
// that fails does not cost the others.
func Write(path string, results ...Result) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	enc := json.NewEncoder(f)
	for _, r := range results {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}
