package netconf

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// result is the part of a CNI result that is read. It is the same in every
// version of the specification from 0.3.0 on. The specification's own types
// would decode all of a result, and their errors do not name the key.
type result struct {
	CNIVersion string `json:"cniVersion"`
	IPs        []*struct {
		Address   string `json:"address"`
		Interface *int   `json:"interface"`
	} `json:"ips"`
	Interfaces []*struct {
		Name    string `json:"name"`
		Sandbox string `json:"sandbox"`
	} `json:"interfaces"`
}

// PodAddresses returns the addresses of the pod from prevResult: for each family
// the first that is on the sandbox's interface ifname, or that names no
// interface. It fails if there is none.
func (c *Config) PodAddresses(ifname string) ([]netip.Prefix, error) {
	if c.PrevResult == nil {
		return nil, fieldErrorf("prevResult", "is required: the plugin must be chained after the one that makes the interface")
	}
	r, err := readResult(c.PrevResult, c.CNIVersion)
	if err != nil {
		return nil, fieldErrorf("prevResult", "cannot be read: %s", backend.OneLine(err.Error(), 200))
	}
	found := map[hostport.Family]netip.Prefix{}
	for i, ip := range r.IPs {
		if ip == nil {
			return nil, fieldErrorf(fmt.Sprintf("prevResult.ips[%d]", i), "is null")
		}
		ours, err := r.on(i, ifname)
		if err != nil {
			return nil, err
		}
		p, err := netip.ParsePrefix(ip.Address)
		if p = unmapped(p); err != nil || !p.IsValid() {
			return nil, fieldErrorf(fmt.Sprintf("prevResult.ips[%d].address", i), "is not an address with a prefix length: %.80q", ip.Address)
		}
		f := hostport.FamilyOf(p.Addr())
		if _, taken := found[f]; ours && !taken {
			found[f] = p
		}
	}
	var out []netip.Prefix
	for _, f := range hostport.Families() {
		if p, ok := found[f]; ok {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return nil, fieldErrorf("prevResult.ips", "has no address on the sandbox's interface %.80q", ifname)
	}
	return out, nil
}

// readResult decodes a result. Before 1.0.0 it may leave out its version: then
// it is the configuration's.
func readResult(m json.RawMessage, configured string) (*result, error) {
	r := new(result)
	if err := json.Unmarshal(m, r); err != nil {
		return nil, err
	}
	if r.CNIVersion == "" {
		r.CNIVersion = configured
	}
	for _, v := range []string{configured, r.CNIVersion} {
		if !slices.Contains(Versions(), v) {
			return nil, fmt.Errorf("its version is %.80q", v)
		}
	}
	return r, nil
}

// on reports whether address i is on the sandbox's interface ifname, or names
// no interface.
func (r *result) on(i int, ifname string) (bool, error) {
	if r.IPs[i].Interface == nil {
		return true, nil
	}
	n := *r.IPs[i].Interface
	if n < 0 || n >= len(r.Interfaces) || r.Interfaces[n] == nil {
		return false, fieldErrorf(fmt.Sprintf("prevResult.ips[%d].interface", i), "%d is not the index of an interface", n)
	}
	return r.Interfaces[n].Sandbox != "" && r.Interfaces[n].Name == ifname, nil
}

// unmapped returns an IPv4-mapped IPv6 prefix as IPv4. It is invalid if it is
// shorter than the 96 bits that mark the mapping.
func unmapped(p netip.Prefix) netip.Prefix {
	if !p.Addr().Is4In6() {
		return p
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
}
