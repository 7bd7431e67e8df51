//go:build nextlayout

package backend

// next makes the Layout that of a program that comes after this one. Tests build it
// to show that an upgrade and a downgrade rewrite the rules; the backends write a
// few of them differently then.
const next = 1

// LayoutSuffix ends names that are others in that layout.
const LayoutSuffix = "_next"
