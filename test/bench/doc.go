// Package bench measures the plugin and its peers on one node in one run, and
// writes the figures to a results file. Package plot, a separate module,
// generates docs/performance.md and its pictures from that file. `make bench`
// runs both.
//
// Nothing here asserts a time: the figures are for people, as ratios to other
// figures of the same run. The measurements have the build tag "bench", because
// they take many minutes and `go test ./...` must not run them.
package bench
