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
	r := open("prevResult", raw)
	version := c.CNIVersion // before 1.0.0 it may be left out
	r.read("cniVersion", &version)
	var ips, interfaces []json.RawMessage
	r.read("ips", &ips)
	r.read("interfaces", &interfaces)
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	for _, v := range []string{c.CNIVersion, version} {
		if !slices.Contains(Versions(), v) {
			return nil, fieldErrorf("prevResult", "cannot be read: its version is %.80q", v)
		}
	}
	var found []netip.Prefix
	for i, raw := range ips {
		ip := open(fmt.Sprintf("prevResult.ips[%d]", i), raw)
		if p, ok := ip.readAddress(interfaces, ifname); ok {
			found = append(found, p)
		}
		if len(ip.errs) > 0 {
			return nil, errors.Join(ip.errs...)
		}
	}
	slices.SortStableFunc(found, func(a, b netip.Prefix) int { return cmp.Compare(a.Addr().BitLen(), b.Addr().BitLen()) })
	found = slices.CompactFunc(found, func(a, b netip.Prefix) bool { return a.Addr().BitLen() == b.Addr().BitLen() })
	if len(found) == 0 {
		return nil, fieldErrorf("prevResult.ips", "has no address that the node can route to on the sandbox's interface %.80q", ifname)
	}
	return found, nil
}

// readAddress returns the address of an entry of prevResult.ips. It skips an address on
// another interface than the sandbox's of that name, and one that the node cannot route
// to.
func (r *reader) readAddress(interfaces []json.RawMessage, ifname string) (p netip.Prefix, ok bool) {
	n := 0
	if r.read("interface", &n) {
		if n < 0 || n >= len(interfaces) {
			r.failf("interface", "%d is not the index of an interface", n)
			return p, false
		}
		var name, sandbox string
		on := open(fmt.Sprintf("prevResult.interfaces[%d]", n), interfaces[n])
		on.read("name", &name)
		on.read("sandbox", &sandbox)
		r.errs = append(r.errs, on.errs...)
		if sandbox == "" || name != ifname {
			return p, false
		}
	}
	var address string
	r.read("address", &address)
	p, err := netip.ParsePrefix(address)
	if len(r.errs) == 0 && (err != nil || p.Addr().Is4In6()) {
		r.failf("address", "is not an address with a prefix length: %.80q", address)
	}
	return p, p.Addr().IsGlobalUnicast() || p.Addr().Is4() && p.Addr().IsLinkLocalUnicast()
}
