package netconf

import (
	"fmt"
	"net/netip"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// PodAddresses reads from prevResult the addresses to which the mappings lead:
// for each family the first that is on the sandbox's interface ifname, or that
// names no interface. It is an error when there is none at all.
func (c *Config) PodAddresses(ifname string) ([]netip.Prefix, error) {
	if c.PrevResult == nil {
		return nil, fieldErrorf("prevResult", "is required: the plugin must be chained after the one that makes the interface")
	}
	res, err := version.NewResult(c.CNIVersion, c.PrevResult)
	if err != nil {
		return nil, fieldErrorf("prevResult", "cannot be read: %w", err)
	}
	r, err := current.NewResultFromResult(res)
	if err != nil {
		return nil, fieldErrorf("prevResult", "cannot be read: %w", err)
	}
	found := map[hostport.Family]netip.Prefix{}
	for i, ip := range r.IPs {
		if ip == nil {
			return nil, fieldErrorf(fmt.Sprintf("prevResult.ips[%d]", i), "is null")
		}
		ours, err := onInterface(r, ip, i, ifname)
		if err != nil {
			return nil, err
		}
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		ones, bits := ip.Address.Mask.Size()
		if !ok || bits == 0 {
			return nil, fieldErrorf(fmt.Sprintf("prevResult.ips[%d].address", i), "is not an address with a prefix length")
		}
		addr = addr.Unmap()
		if addr.Is4() && bits == 128 {
			ones -= 96
		}
		f := hostport.FamilyOf(addr)
		if _, taken := found[f]; ours && !taken {
			found[f] = netip.PrefixFrom(addr, ones)
		}
	}
	var out []netip.Prefix
	for _, f := range hostport.Families() {
		if p, ok := found[f]; ok && p.IsValid() {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return nil, fieldErrorf("prevResult.ips", "has no address on the sandbox's interface %q", ifname)
	}
	return out, nil
}

// onInterface reports whether an address belongs to the interface ifname of
// the sandbox, or to none in particular.
func onInterface(r *current.Result, ip *current.IPConfig, i int, ifname string) (bool, error) {
	if ip.Interface == nil {
		return true, nil
	}
	n := *ip.Interface
	if n < 0 || n >= len(r.Interfaces) || r.Interfaces[n] == nil {
		return false, fieldErrorf(fmt.Sprintf("prevResult.ips[%d].interface", i), "%d is not the index of an interface", n)
	}
	return r.Interfaces[n].Sandbox != "" && r.Interfaces[n].Name == ifname, nil
}
