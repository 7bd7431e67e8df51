package explain

import (
	"net/netip"
	"testing"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// TestMatches evaluates options whose meaning depends on the module, and
// matches that have no option at all.
func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		spec   string
		action action
		doubt  bool
	}{
		{"-m mark --mark 0x2000/0x2000 -j DROP", actionDrop, false},
		{"-m connmark --mark 0x2000/0x2000 -j DROP", actionNext, false},
		{"-m connmark --mark 0x4000/0x4000 -j DROP", actionDrop, false},
		{"-m connmark ! --mark 0x4000/0x4000 -m mark --mark 0x2000 -j DROP", actionNext, false},
		{"-m connmark --mark 0x4000/0x4000 -m mark --mark 0x2000 -j DROP", actionDrop, false},
		{"-p tcp -m socket -j DROP", actionDrop, true},
		{"-p udp -m socket -j DROP", actionNext, false},
		{"-m rpfilter --invert -j DROP", actionDrop, true},
		{"-s 198.51.100.7/255.0.0.255 -j DROP", actionDrop, true},
		{`-m comment --comment "a \"quoted\" -j ACCEPT" -j DROP`, actionDrop, false},
	} {
		p := newScene().s.packet(hostport.TCP, netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("192.0.2.1:8080"), "up0")
		p.Mark, p.ctMark = 0x2000, 0x4000
		e := (&iptRule{spec: tt.spec}).apply(p)
		if e.action != tt.action || (e.doubt != "") != tt.doubt {
			t.Errorf("%s: %s, doubt %q; want %s, doubt %v", tt.spec, e.action, e.doubt, tt.action, tt.doubt)
		}
	}
}
