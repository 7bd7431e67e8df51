package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

const portMappings = "runtimeConfig.portMappings"

type rawMapping struct {
	HostPort      json.RawMessage `json:"hostPort"`
	ContainerPort json.RawMessage `json:"containerPort"`
	Protocol      json.RawMessage `json:"protocol"`
	HostIP        json.RawMessage `json:"hostIP"`
}

func (c *Config) parseRuntimeConfig(m json.RawMessage) error {
	if !isSet(m) {
		return nil
	}
	var rc struct {
		PortMappings json.RawMessage `json:"portMappings"`
	}
	if json.Unmarshal(m, &rc) != nil {
		return fieldErrorf("runtimeConfig", "want an object, not %s", shown(m))
	}
	if !isSet(rc.PortMappings) {
		return nil
	}
	var entries []json.RawMessage
	if json.Unmarshal(rc.PortMappings, &entries) != nil {
		return fieldErrorf(portMappings, "want a list, not %s", shown(rc.PortMappings))
	}
	var errs []error
	for i, e := range entries {
		field := fmt.Sprintf("%s[%d]", portMappings, i)
		var r rawMapping
		if !isSet(e) || json.Unmarshal(e, &r) != nil {
			errs = append(errs, fieldErrorf(field, "want an object, not %s", shown(e)))
			continue
		}
		m, err := parseMapping(r, field)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c.Mappings = append(c.Mappings, m)
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return c.checkMappings()
}

// parseHostIP reads a host IP. Zones are refused: a rule cannot express them.
func parseHostIP(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%.80q is not an IP address", s)
	}
	if a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%.80q has a zone, which a rule cannot match", s)
	}
	return a.Unmap(), nil
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
