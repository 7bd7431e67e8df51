package nftables

import (
	"bytes"
	"encoding/binary"
	"iter"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// attributes are the netlink attributes of one level of a message, as they
// came. They are read in place: an ADD looks at hundreds of them. Where the
// bytes make no sense the reading ends, and what is missing then differs from
// everything that is expected.
type attributes []byte

// all yields each attribute's type, without its flags, and its content.
func (a attributes) all() iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for b := a; len(b) >= unix.NLA_HDRLEN; {
			n := int(binaryutil.NativeEndian.Uint16(b))
			if n < unix.NLA_HDRLEN || n > len(b) {
				return
			}
			kind := binaryutil.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, b[unix.NLA_HDRLEN:n]) {
				return
			}
			b = b[min(len(b), (n+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
		}
	}
}

// get is the content of the first attribute of a type, nil if there is none.
func (a attributes) get(kind uint16) []byte {
	for k, data := range a.all() {
		if k == kind {
			return data
		}
	}
	return nil
}

func (a attributes) nested(kind uint16) attributes { return a.get(kind) }

func (a attributes) text(kind uint16) string { return cString(a.get(kind)) }

// uint32 is 0 if there is none.
func (a attributes) uint32(kind uint16) uint32 {
	if b := a.get(kind); len(b) == 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func cString(b []byte) string {
	text, _, _ := bytes.Cut(b, []byte{0})
	return string(text)
}

// comment finds a comment in the data that user space attaches to an object.
func comment(data []byte, kind userdata.Type) string {
	for len(data) >= 2 {
		n := 2 + int(data[1])
		if n > len(data) {
			return ""
		}
		if userdata.Type(data[0]) == kind {
			return cString(data[2:n])
		}
		data = data[n:]
	}
	return ""
}
