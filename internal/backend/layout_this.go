//go:build !nextlayout

package backend

const next = 0

// LayoutSuffix ends names that differ in the layout that tests upgrade to.
const LayoutSuffix = ""
