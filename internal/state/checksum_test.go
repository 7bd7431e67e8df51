package state

import (
	"hash/crc32"
	"testing"
)

func TestChecksumIsCRC32(t *testing.T) {
	b := make([]byte, 300)
	for i := range b {
		b[i] = byte(i * i)
		if got, want := checksum(b[:i]), crc32.ChecksumIEEE(b[:i]); got != want {
			t.Fatalf("checksum of %d bytes: %08x, want %08x", i, got, want)
		}
	}
}
