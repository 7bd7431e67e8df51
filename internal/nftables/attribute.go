package nftables

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// attributes are one level of a message: those that occur once by their type,
// those of a list in order.
type attributes struct {
	byType map[uint16][]byte
	list   [][]byte
}

func decode(b []byte) (attributes, error) {
	as, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		return attributes{}, fmt.Errorf("decode attributes: %w", err)
	}
	out := attributes{byType: make(map[uint16][]byte, len(as)), list: make([][]byte, 0, len(as))}
	for _, a := range as {
		t := a.Type &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		out.byType[t] = a.Data
		out.list = append(out.list, a.Data)
	}
	return out, nil
}

// nested is a level below. What cannot be decoded has no attributes: it then
// differs from everything that is expected.
func (a attributes) nested(t uint16) attributes {
	n, err := decode(a.byType[t])
	if err != nil {
		return attributes{}
	}
	return n
}

func (a attributes) text(t uint16) string { return cString(a.byType[t]) }

// uint32 is 0 if there is none.
func (a attributes) uint32(t uint16) uint32 {
	if b := a.byType[t]; len(b) == 4 {
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
