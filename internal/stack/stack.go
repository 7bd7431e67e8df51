// Package stack gives the main goroutine a stack of 128 KiB when a program starts. The
// goroutine starts with a small one, and the Go runtime doubles it whenever it is full,
// each time walking and copying all of its frames: in a CNI call without mappings this
// takes 2 to 3 percent of the time. When this package grows the stack there is hardly a
// frame to copy.
//
// It imports nothing, so that it is initialized before the packages whose
// initialization needs the stack (Go specification, "Package initialization": among
// the packages that are ready, the first by import path).
package stack

var (
	used bool // never: the room for the frame is made when grow is entered
	_    = grow()
)

//go:noinline
func grow() bool {
	if used {
		var frame [120 << 10]byte
		use(frame[:])
	}
	return used
}

//go:noinline
func use([]byte) {} // keeps the compiler from leaving the frame out
