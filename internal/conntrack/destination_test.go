package conntrack

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
)

func FuzzDestination(f *testing.F) {
	f.Fuzz(func(t *testing.T, msg []byte) {
		to, protocol := destination(msg)
		header := min(nl.SizeofNfgenmsg, len(msg))
		content := nfnetlink.Attributes(msg[header:]).Get(nl.CTA_TUPLE_ORIG)
		if content == nil {
			if to != (netip.AddrPort{}) || protocol != 0 {
				t.Errorf("without a tuple: %v, protocol %d", to, protocol)
			}
			return
		}
		tuple := nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, content).Serialize()
		alone, number := destination(append(bytes.Clone(msg[:header]), tuple...))
		if alone != to || number != protocol {
			t.Errorf("the tuple alone reads %v, protocol %d; want %v, %d", alone, number, to, protocol)
		}
	})
}
