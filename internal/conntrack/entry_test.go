package conntrack

import (
	"bytes"
	"testing"
)

func FuzzParseEntry(f *testing.F) {
	f.Fuzz(func(t *testing.T, msg []byte) {
		e, err := parseEntry(msg)
		if err != nil {
			return
		}
		if !e.destination.IsValid() || len(e.tuple) < attrLen {
			t.Errorf("an entry without a destination: %+v", e)
		}
		for _, part := range [][]byte{e.tuple, e.zone, e.id} {
			if !bytes.Contains(msg, part) {
				t.Errorf("%x is not in the message", part)
			}
		}
		again, err := parseEntry(appendPadded(bytes.Clone(msg[:nfgenmsgLen]), e.tuple))
		if err != nil || again.destination != e.destination || again.port != e.port || again.protocol != e.protocol {
			t.Errorf("the tuple alone reads %+v, %v; want %+v", again, err, e)
		}
	})
}
