package netconf

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Result returns prevResult unchanged. It fails if there is none.
func (c *Config) Result() (json.RawMessage, error) {
	if c.PrevResult == nil {
		return nil, fieldErrorf("prevResult", "is required: the plugin must be chained after the one that makes the interface")
	}
	return c.PrevResult, nil
}

// PodAddresses returns the addresses of the pod from prevResult: for each family
// the first that is on the sandbox's interface ifname, or that names no
// interface. It fails if there is none.
func (c *Config) PodAddresses(ifname string) ([]netip.Prefix, error) {
	raw, err := c.Result()
	if err != nil {
		return nil, err
	}
	// The specification's own types would decode the whole result, and their errors do not
	// name the key. The keys read here are the same in every version from 0.3.0 on.
	var result struct {
		CNIVersion string          `json:"cniVersion"` // before 1.0.0 it may be left out
		IPs        json.RawMessage `json:"ips"`
		Interfaces json.RawMessage `json:"interfaces"`
	}
	result.CNIVersion = c.CNIVersion
	var r reader
	r.decode("prevResult", raw, &result)
	interfaces := decodeList[struct {
		Name    string `json:"name"`
		Sandbox string `json:"sandbox"`
	}](&r, "prevResult.interfaces", result.Interfaces)
	ips := decodeList[struct {
		Address   string `json:"address"`
		Interface *int   `json:"interface"`
	}](&r, "prevResult.ips", result.IPs)
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	for _, v := range []string{c.CNIVersion, result.CNIVersion} {
		if !slices.Contains(Versions(), v) {
			return nil, fieldErrorf("prevResult", "cannot be read: its version is %.80q", v)
		}
	}
	var found []netip.Prefix
	for i, ip := range ips {
		field := fmt.Sprintf("prevResult.ips[%d].", i)
		if n := ip.Interface; n != nil {
			if *n < 0 || *n >= len(interfaces) {
				return nil, fieldErrorf(field+"interface", "%d is not the index of an interface", *n)
			}
			if on := interfaces[*n]; on.Sandbox == "" || on.Name != ifname {
				continue
			}
		}
		p, err := netip.ParsePrefix(ip.Address)
		if err != nil || p.Addr().Is4In6() {
			return nil, fieldErrorf(field+"address", "is not an address with a prefix length: %.80q", ip.Address)
		}
		if a := p.Addr(); a.IsGlobalUnicast() || a.Is4() && a.IsLinkLocalUnicast() { // else the node cannot route to it
			found = append(found, p)
		}
	}
	slices.SortStableFunc(found, func(a, b netip.Prefix) int { return cmp.Compare(a.Addr().BitLen(), b.Addr().BitLen()) })
	found = slices.CompactFunc(found, func(a, b netip.Prefix) bool { return a.Addr().BitLen() == b.Addr().BitLen() })
	if len(found) == 0 {
		return nil, fieldErrorf("prevResult.ips", "has no address that the node can route to on the sandbox's interface %.80q", ifname)
	}
	return found, nil
}
