package netconf

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
)

// result is the part of a CNI result that is read. It is the same in every
// version of the specification from 0.3.0 on. The specification's own types
// would decode all of a result, and their errors do not name the key.
type result struct {
	CNIVersion string
	IPs        []struct {
		Address   string
		Interface *int
	}
	Interfaces []struct{ Name, Sandbox string }
}

// Result returns prevResult as it came. It fails if there is none.
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
	r := result{CNIVersion: c.CNIVersion} // before 1.0.0 it may be left out
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fieldErrorf("prevResult", "cannot be read: %s", backend.OneLine(err.Error(), 200))
	}
	for _, v := range []string{c.CNIVersion, r.CNIVersion} {
		if !slices.Contains(Versions(), v) {
			return nil, fieldErrorf("prevResult", "cannot be read: its version is %.80q", v)
		}
	}
	var found []netip.Prefix
	for i, ip := range r.IPs {
		at := fmt.Sprintf("prevResult.ips[%d]", i)
		if ip.Interface != nil {
			n := *ip.Interface
			if n < 0 || n >= len(r.Interfaces) {
				return nil, fieldErrorf(at+".interface", "%d is not the index of an interface", n)
			}
			if r.Interfaces[n].Sandbox == "" || r.Interfaces[n].Name != ifname {
				continue
			}
		}
		p, err := netip.ParsePrefix(ip.Address)
		if err != nil || p.Addr().Is4In6() {
			return nil, fieldErrorf(at+".address", "is not an address with a prefix length: %.80q", ip.Address)
		}
		found = append(found, p)
	}
	slices.SortStableFunc(found, func(a, b netip.Prefix) int { return cmp.Compare(a.Addr().BitLen(), b.Addr().BitLen()) })
	found = slices.CompactFunc(found, func(a, b netip.Prefix) bool { return a.Addr().BitLen() == b.Addr().BitLen() })
	if len(found) == 0 {
		return nil, fieldErrorf("prevResult.ips", "has no address on the sandbox's interface %.80q", ifname)
	}
	return found, nil
}
