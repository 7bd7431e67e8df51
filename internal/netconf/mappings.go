package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// portMapping is an entry of runtimeConfig.portMappings.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// ParseMappings reads port mappings from outside a configuration, in the same
// format. Without data there are none. Errors name field.
func ParseMappings(field string, data json.RawMessage) ([]hostport.Mapping, error) {
	var r reader
	return r.readMappings(field, data), errors.Join(r.errs...)
}

// readMappings reads port mappings. If one is wrong, it returns none.
func (r *reader) readMappings(field string, raw json.RawMessage) []hostport.Mapping {
	before := len(r.errs)
	list := decodeList[portMapping](r, field, raw)
	out := make([]hostport.Mapping, len(list))
	for i, p := range list {
		check := func(key string, err error) {
			if err != nil {
				r.failf(fmt.Sprintf("%s[%d].%s", field, i, key), "%v", err)
			}
		}
		m := hostport.Mapping{HostPort: uint16(p.HostPort), ContainerPort: uint16(p.ContainerPort)}
		check("hostPort", outside(p.HostPort, 1, 65535))
		check("containerPort", outside(p.ContainerPort, 1, 65535))
		var err error
		m.Protocol, err = hostport.ParseProtocol(p.Protocol)
		check("protocol", err)
		m.HostIP, err = hostIP(p.HostIP)
		check("hostIP", err)
		out[i] = m
	}
	if len(r.errs) > before {
		return nil
	}
	if i, j, found := hostport.Contradiction(out); found {
		r.failf(fmt.Sprintf("%s[%d].hostPort", field, j), "%s is mapped to container port %d here and to %d in entry %d",
			out[j], out[j].ContainerPort, out[i].ContainerPort, i)
	}
	return out
}

// hostIP parses the address of a mapping, and refuses one that cannot be mapped.
// "" is the zero Addr.
func hostIP(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	ip, err := netip.ParseAddr(s)
	ip = ip.Unmap()
	switch {
	case err != nil || ip.Zone() != "":
		return ip, fmt.Errorf("want an IP address without a zone, not %.60q", s)
	case ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return ip, fmt.Errorf("%s is a multicast or broadcast address, which no node owns", ip)
	default:
		return ip, nil
	}
}
