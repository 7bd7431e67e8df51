package netconf

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

const portMappings = "runtimeConfig.portMappings"

// portMapping is an entry of runtimeConfig.portMappings.
type portMapping struct {
	HostPort      value[float64]    `json:"hostPort"`
	ContainerPort value[float64]    `json:"containerPort"`
	Protocol      value[string]     `json:"protocol"`
	HostIP        value[netip.Addr] `json:"hostIP"`
}

// ParseMappings reads port mappings that did not come with a configuration,
// written as in one. Errors name field.
func ParseMappings(field string, data json.RawMessage) ([]hostport.Mapping, error) {
	r := &reader{}
	return r.readMappings(field, value[[]value[portMapping]]{data}), r.err()
}

func (r *reader) readMappings(key string, v value[[]value[portMapping]]) []hostport.Mapping {
	var out []hostport.Mapping
	wrong := len(r.errs)
	readList(r, key, v, func(field string, p portMapping) {
		out = append(out, r.readMapping(field, p))
	})
	if len(r.errs) > wrong {
		return nil
	}
	if i, j, found := hostport.Contradiction(out); found {
		r.failf(fmt.Sprintf("%s[%d].hostPort", key, j), "%s is mapped to container port %d here and to %d in entry %d",
			out[j], out[j].ContainerPort, out[i].ContainerPort, i)
	}
	return out
}

func (r *reader) readMapping(field string, p portMapping) hostport.Mapping {
	var m hostport.Mapping
	var protocol string
	r.readPort(field+".hostPort", p.HostPort, &m.HostPort)
	r.readPort(field+".containerPort", p.ContainerPort, &m.ContainerPort)
	if read(r, field+".hostIP", p.HostIP, &m.HostIP) {
		m.HostIP = m.HostIP.Unmap()
		if reason := unusable(m.HostIP); reason != "" {
			r.failf(field+".hostIP", "%s %s", m.HostIP.WithZone(""), reason)
		}
	}
	read(r, field+".protocol", p.Protocol, &protocol)
	var err error
	if m.Protocol, err = hostport.ParseProtocol(protocol); err != nil {
		r.failf(field+".protocol", "%w", err)
	}
	return m
}

func (r *reader) readPort(field string, v value[float64], to *uint16) {
	if !v.set() {
		r.failf(field, "is required")
	}
	readWhole(r, field, v, 1, 65535, to)
}

// unusable returns why a host IP cannot be mapped, or "".
func unusable(ip netip.Addr) string {
	switch {
	case ip.Zone() != "":
		return "has a zone, which a rule cannot match"
	case ip.IsMulticast():
		return "is a multicast address, which no node owns"
	case ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is the broadcast address, which no node owns"
	default:
		return ""
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
