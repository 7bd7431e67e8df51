package nftables

import (
	"testing"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
)

// Whatever the bytes, decoding ends, and what was decoded can be described.
func FuzzAttributes(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{8, 0, 1, 0, 'a', 'b', 'c', 0})
	f.Add([]byte{7, 0, 1, 0, 'a', 'b', 'c', 0, 3, 0, 2, 0})
	f.Add([]byte{5, 0, 1, 0, 'a'})
	f.Add([]byte{0xff, 0xff, 1, 0, 'a'})
	f.Add([]byte{12, 0, 1, 0x80, 8, 0, 1, 0, 10, 244, 0, 3, 8, 0, 2, 0x80, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for range nfnetlink.Attributes(b).All() {
			n++
		}
		if n > len(b)/unix.NLA_HDRLEN {
			t.Errorf("%d attributes in %d bytes", n, len(b))
		}
		_, _ = nfnetlink.Expression(unix.NFPROTO_INET, b)
		_ = nfnetlink.Comment(b, userdata.TypeComment)
		for _, set := range []string{"v4", "v6", "v4_hostip", "v6_hostip", "cond4", "client4_24", "client6_0", "other"} {
			e := decodeElement(set, b)
			if e.String() == "" {
				t.Error("an element without a name")
			}
			e.key, e.value = string(b), string(b)
			if e.String() == "" {
				t.Error("an element without a name")
			}
			_ = e.to()
		}
	})
}
