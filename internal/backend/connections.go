package backend

import (
	"net/netip"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Connections is how many connections, or flows, the kernel has sent to a mapping
// in one family since its rule was written.
type Connections struct {
	Owner    hostport.Key
	Family   hostport.Family
	Protocol hostport.Protocol
	// HostIP is the zero Addr for every address of the node.
	HostIP   netip.Addr
	HostPort uint16
	Number   uint64
}
