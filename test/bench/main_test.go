//go:build bench

package bench

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/test/world"
)

var (
	output  = flag.String("results", "", "file that results are appended to")
	install = flag.String("install", "", "directory on a disk that the measured programs are copied to, as an operator installs them")
	base    = flag.String("base", "", "earlier commit that TestCompare measures beside this tree")
	quick   = flag.Bool("quick", false, "fewer runs and sizes: to try the measurements")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(world.MainWith(m, func(dir string) error {
		if *base == "" {
			return nil
		}
		return world.BuildCommit(*base, filepath.Join(dir, basePlugin))
	}))
}

// pick is the sizes of a measurement: all of them, or the first for a try.
func pick[T any](all []T, forQuick int) []T {
	if *quick {
		return all[:min(forQuick, len(all))]
	}
	return all
}

// runs is how often something is measured: fewer for a try.
func runs(n int) int {
	if *quick {
		return min(n, 3)
	}
	return n
}

// patience is how long a peer is measured in one place, once it was measured
// three times: a single round of its may take seconds.
const patience = 5 * time.Second

// enough reports whether a series of the peer's may end.
func enough(rounds int, since time.Time) bool {
	return rounds >= 5 || rounds >= 3 && time.Since(since) > patience
}

// record keeps one row.
func record(t *testing.T, section, subject string, labels map[string]string, unit string, xs []float64) {
	t.Helper()
	r := Summarise(xs)
	r.Section, r.Subject, r.Labels, r.Unit = section, subject, labels, unit
	t.Logf("%s %s %v: %.2f (%.2f-%.2f) %s, %d runs", section, subject, labels, r.Median, r.Min, r.Max, unit, r.Runs)
	if *output == "" {
		return
	}
	if err := Write(*output, r); err != nil {
		t.Fatal(err)
	}
}

// labels makes conditions of pairs of name and value.
func labels(pairs ...any) map[string]string {
	m := make(map[string]string)
	for i := 0; i+1 < len(pairs); i += 2 {
		m[fmt.Sprint(pairs[i])] = fmt.Sprint(pairs[i+1])
	}
	return m
}

// with is conditions and some more.
func with(l map[string]string, pairs ...any) map[string]string {
	m := maps.Clone(l)
	maps.Copy(m, labels(pairs...))
	return m
}

// program builds one of the programs below this directory, as the plugin is
// built.
func program(t *testing.T, name string) string {
	t.Helper()
	return world.Build(t, "github.com/hostport-cni/hostport/test/bench/"+name, "-trimpath", "-ldflags", "-s -w")
}
