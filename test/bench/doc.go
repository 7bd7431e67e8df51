// Package bench measures the plugin beside its peers on one node in one run,
// and writes what it saw to a file of results. Package plot, a module of its
// own, makes docs/performance.md and its pictures from that file. `make bench`
// runs both.
//
// Nothing here asserts a time: the figures are for people, as ratios to what
// was measured in the same run. The measurements have the build tag "bench",
// because they take many minutes and `go test ./...` must not run them.
package bench
