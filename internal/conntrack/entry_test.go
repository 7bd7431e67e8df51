package conntrack

import (
	"bytes"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func FuzzParseEntry(f *testing.F) {
	f.Fuzz(func(t *testing.T, msg []byte) {
		e := parseEntry(msg)
		for _, part := range [][]byte{e.tuple, e.zone, e.id} {
			if !bytes.Contains(msg, part) {
				t.Errorf("%x is not in the message", part)
			}
		}
		if e.tuple == nil {
			return
		}
		tuple := nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, e.tuple).Serialize()
		again := parseEntry(append(bytes.Clone(msg[:nl.SizeofNfgenmsg]), tuple...))
		if again.destination != e.destination || again.protocol != e.protocol {
			t.Errorf("the tuple alone reads %+v; want %+v", again, e)
		}
	})
}
