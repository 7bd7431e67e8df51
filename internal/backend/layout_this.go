//go:build !nextlayout

package backend

const next = 0

// LayoutSuffix ends names that are others in the layout that tests upgrade to.
const LayoutSuffix = ""
