package nftables

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Connections reads the counters of the elements that lead to pods: chains of nat
// see the first packet of a connection alone. With an error it returns what could
// be read.
func (b *Backend) Connections(ctx context.Context) ([]backend.Connections, error) {
	var out []backend.Connections
	var errs []error
	for _, f := range hostport.Families() {
		for _, hostIP := range []bool{false, true} {
			set, _ := forwardMaps(f, hostIP)
			request := []netlink.Attribute{
				nameAttr(unix.NFTA_SET_ELEM_LIST_TABLE, tableName),
				nameAttr(unix.NFTA_SET_ELEM_LIST_SET, set),
			}
			errs = append(errs, b.dump(ctx, unix.NFT_MSG_GETSETELEM, request, func(as Attributes) {
				for _, e := range as.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS).All() {
					if c, ok := connectionsTo(f, set, e); ok {
						out = append(out, c)
					}
				}
			}))
		}
	}
	return out, errors.Join(errs...)
}

// connectionsTo reads one element of a map.
func connectionsTo(f hostport.Family, set string, as Attributes) (backend.Connections, bool) {
	e := decodeElement(set, as)
	owner, tagged := hostport.ParseTag(e.comment)
	m, sided := e.hostSide()
	packets := as.Nested(unix.NFTA_SET_ELEM_EXPR).Nested(unix.NFTA_EXPR_DATA).Get(unix.NFTA_COUNTER_PACKETS)
	if !tagged || !sided || len(packets) != 8 {
		return backend.Connections{}, false
	}
	c := backend.Connections{
		Owner: owner.Key, Family: f, Protocol: m.Protocol, HostPort: m.HostPort, Number: binary.BigEndian.Uint64(packets),
	}
	if !m.Wildcard() {
		c.HostIP = m.HostIP
	}
	return c, true
}
