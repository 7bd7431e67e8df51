package conntrack

import (
	"bytes"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func FuzzParseEntry(f *testing.F) {
	f.Fuzz(func(t *testing.T, msg []byte) {
		e, err := parseEntry(msg)
		if err != nil {
			return
		}
		if !e.destination.IsValid() || len(e.tuple) == 0 {
			t.Errorf("an entry without a destination: %+v", e)
		}
		for _, part := range [][]byte{e.tuple, e.zone, e.id} {
			if !bytes.Contains(msg, part) {
				t.Errorf("%x is not in the message", part)
			}
		}
		tuple := nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, e.tuple).Serialize()
		again, err := parseEntry(append(bytes.Clone(msg[:nl.SizeofNfgenmsg]), tuple...))
		if err != nil || again.destination != e.destination || again.port != e.port || again.protocol != e.protocol {
			t.Errorf("the tuple alone reads %+v, %v; want %+v", again, err, e)
		}
	})
}
