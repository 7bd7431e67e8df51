package netconf

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// portMapping is an entry of runtimeConfig.portMappings.
type portMapping struct {
	HostPort      *float64 `json:"hostPort"`
	ContainerPort *float64 `json:"containerPort"`
	Protocol      string   `json:"protocol"`
	HostIP        string   `json:"hostIP"`
}

// ParseMappings reads port mappings that did not come with a configuration,
// written as in one. Without data there are none. Errors name field.
func ParseMappings(field string, data json.RawMessage) ([]hostport.Mapping, error) {
	r := &reader{}
	return r.readMappings(field, data), r.err()
}

func (r *reader) readMappings(key string, list json.RawMessage) []hostport.Mapping {
	var out []hostport.Mapping
	readList(r, key, list, func(at func() string, p *portMapping) {
		out = append(out, r.readMapping(at, p))
	})
	if slices.ContainsFunc(r.errs, func(e *FieldError) bool { return strings.HasPrefix(e.Field, key) }) {
		return nil
	}
	if i, j, found := hostport.Contradiction(out); found {
		r.failf(fmt.Sprintf("%s[%d].hostPort", key, j), "%s is mapped to container port %d here and to %d in entry %d",
			out[j], out[j].ContainerPort, out[i].ContainerPort, i)
	}
	return out
}

func (r *reader) readMapping(at func() string, p *portMapping) (m hostport.Mapping) {
	check := func(key string, err error) {
		if err != nil {
			r.failf(at()+"."+key, "%w", err)
		}
	}
	var err error
	m.HostPort, err = whole[uint16](p.HostPort, 1, 65535)
	check("hostPort", err)
	m.ContainerPort, err = whole[uint16](p.ContainerPort, 1, 65535)
	check("containerPort", err)
	m.Protocol, err = hostport.ParseProtocol(p.Protocol)
	check("protocol", err)
	m.HostIP, err = hostIP(p.HostIP)
	check("hostIP", err)
	return m
}

// hostIP parses an address that can be mapped. "" is the zero Addr.
func hostIP(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	ip, err := netip.ParseAddr(s)
	ip = ip.Unmap()
	switch {
	case err != nil:
		return ip, fmt.Errorf("want an IP address, not %.60q", s)
	case ip.Zone() != "":
		return ip, fmt.Errorf("%s has a zone, which a rule cannot match", ip.WithZone(""))
	case ip.IsMulticast():
		return ip, fmt.Errorf("%s is a multicast address, which no node owns", ip)
	case ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return ip, fmt.Errorf("%s is the broadcast address, which no node owns", ip)
	default:
		return ip, nil
	}
}

// Split divides the mappings into those that a pod with these addresses can
// serve and those whose host IP is of a family that the pod lacks.
func Split(ms []hostport.Mapping, pod []netip.Prefix) (served, skipped []hostport.Mapping) {
	for _, m := range ms {
		ok := false
		for _, p := range pod {
			ok = ok || m.Serves(hostport.FamilyOf(p.Addr()))
		}
		if ok {
			served = append(served, m)
		} else {
			skipped = append(skipped, m)
		}
	}
	return served, skipped
}
