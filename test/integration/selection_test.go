//go:build tools || kernels

package integration

import "slices"

// named returns the scenarios of those names.
func named(table []scenario, names ...string) []scenario {
	return slices.DeleteFunc(table, func(s scenario) bool { return !slices.Contains(names, s.name) })
}
