//go:build !nextlayout

package backend

const next = 0
