package listener

import (
	"testing"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) < messageLen {
			return
		}
		s := parse(hostport.TCP, msg)
		if !s.address.Addr().IsValid() || s.address.Addr().Is4In6() {
			t.Errorf("address %v", s.address)
		}
		if !s.takes.HostIP.IsValid() && (s.address.Addr().Is4() || !s.address.Addr().IsUnspecified()) {
			t.Errorf("%v is said to take both families", s.address)
		}
	})
}
