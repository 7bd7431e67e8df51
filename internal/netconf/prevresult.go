package netconf

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strings"

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
	r, err := result(c.PrevResult, c.CNIVersion)
	if err != nil {
		return nil, fieldErrorf("prevResult", "cannot be read: %s", shown([]byte(err.Error())))
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
		return nil, fieldErrorf("prevResult.ips", "has no address on the sandbox's interface %.80q", ifname)
	}
	return out, nil
}

// result reads a result of any version that lists addresses. Before 1.0.0 it
// need not tell its version: it is the configuration's then.
func result(m json.RawMessage, configured string) (*current.Result, error) {
	var told struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(m, &told); err != nil {
		return nil, err
	}
	if told.CNIVersion == "" {
		var keys map[string]json.RawMessage
		if err := json.Unmarshal(m, &keys); err != nil {
			return nil, err
		}
		maps.DeleteFunc(keys, func(k string, _ json.RawMessage) bool { return strings.EqualFold(k, "cniVersion") })
		v, err := json.Marshal(configured)
		if err != nil {
			return nil, err
		}
		keys["cniVersion"] = v
		if m, err = json.Marshal(keys); err != nil {
			return nil, err
		}
	}
	res, err := version.NewResult(configured, m)
	if err != nil {
		return nil, err
	}
	return current.NewResultFromResult(res)
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
