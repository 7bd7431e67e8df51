//go:build nextlayout

package backend

// next makes Layout that of a later version. Tests build with it to show that an upgrade
// and a downgrade rewrite the rules; the backends then write a few of them differently.
const next = 1

// LayoutSuffix ends names that differ in that layout.
const LayoutSuffix = "_next"
