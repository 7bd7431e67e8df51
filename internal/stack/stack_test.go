package stack

import (
	"testing"
	"unsafe"
)

// A compiler that sees that the frame is never used would make the package useless, and
// nobody would notice.
func TestGrow(t *testing.T) {
	moved := func(prepare func() bool) bool {
		result := make(chan bool)
		go func() {
			prepare()
			var x byte
			before := uintptr(unsafe.Pointer(&x))
			deep()
			result <- before != uintptr(unsafe.Pointer(&x))
		}()
		return <-result
	}
	if moved(grow) {
		t.Error("the stack was moved by a call that needs 100 KiB")
	}
	if !moved(func() bool { return false }) {
		t.Error("a stack that was not grown was not moved either: this test shows nothing")
	}
}

//go:noinline
func deep() {
	var frame [100 << 10]byte
	use(frame[:])
}
