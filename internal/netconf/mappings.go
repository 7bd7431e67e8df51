package netconf

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

const portMappings = "runtimeConfig.portMappings"

// portMapping is an entry of runtimeConfig.portMappings.
type portMapping struct {
	HostPort      *float64 `json:"hostPort"`
	ContainerPort *float64 `json:"containerPort"`
	Protocol      string   `json:"protocol"`
	HostIP        string   `json:"hostIP"`
}

// ParseMappings reads port mappings that did not come with a configuration,
// written as in one. Errors name field.
func ParseMappings(field string, data json.RawMessage) ([]hostport.Mapping, error) {
	r := &reader{}
	var list []*portMapping
	r.decode(field, data, &list)
	return r.readMappings(field, list), r.err()
}

func (r *reader) readMappings(key string, list []*portMapping) []hostport.Mapping {
	out := make([]hostport.Mapping, 0, len(list))
	readList(r, key, list, func(field string, p *portMapping) {
		out = append(out, r.readMapping(field, p))
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

func (r *reader) readMapping(field string, p *portMapping) hostport.Mapping {
	var m hostport.Mapping
	var err error
	r.readPort(field+".hostPort", p.HostPort, &m.HostPort)
	r.readPort(field+".containerPort", p.ContainerPort, &m.ContainerPort)
	if p.HostIP != "" {
		if m.HostIP, err = netip.ParseAddr(p.HostIP); err != nil {
			r.failf(field+".hostIP", "want an IP address, not %.60q", p.HostIP)
		}
		m.HostIP = m.HostIP.Unmap()
		if reason := unusable(m.HostIP); reason != "" {
			r.failf(field+".hostIP", "%s %s", m.HostIP.WithZone(""), reason)
		}
	}
	if m.Protocol, err = hostport.ParseProtocol(p.Protocol); err != nil {
		r.failf(field+".protocol", "%w", err)
	}
	return m
}

func (r *reader) readPort(field string, v *float64, to *uint16) {
	if v == nil {
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
