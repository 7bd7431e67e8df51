//go:build nextlayout

package backend

// next makes Layout that of a later version, for tests of upgrades and downgrades. The
// backends then write a few rules differently.
const next = 1

// LayoutSuffix ends names that differ in that layout.
const LayoutSuffix = "_next"
