package portmap

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// owner is a container as portmap's rules of one backend tell of it.
type owner struct {
	containerID string // "" if no rule names it
	network     string // "" on nftables
	chain       string // "" on nftables
	backend     string
	options     hostport.Options
	forwards    []hostport.Forward
	// subnets are the pod's addresses with the prefix length by which portmap
	// masquerades, where a rule tells.
	subnets []netip.Prefix
}

// owners are those that rules tell of: one where both families, or both variants of
// iptables, do.
type owners []*owner

// get returns the owner of the same chain, or of the same container where rules
// have none: o itself if that is new.
func (all *owners) get(o owner) *owner {
	for _, x := range *all {
		if x.backend == o.backend && x.chain == o.chain && (o.chain != "" || x.containerID == o.containerID) {
			return x
		}
	}
	*all = append(*all, &o)
	return &o
}

// attachment returns what an attachment of the owner would be. The interface,
// the sandbox and the pod are not in the rules.
func (o *owner) attachment() *hostport.Attachment {
	return &hostport.Attachment{
		Key:       hostport.Key{ContainerID: o.containerID},
		Network:   o.network,
		Addresses: o.addresses(),
		Mappings:  o.mappings(),
		Backend:   o.backend,
		Options:   o.options,
	}
}

// addresses returns the first target of each family: the rule that came first
// is the one that packets meet.
func (o *owner) addresses() []netip.Prefix {
	var out []netip.Prefix
	for _, f := range hostport.Families() {
		for _, fw := range o.forwards {
			if addr := fw.To.Addr(); hostport.FamilyOf(addr) == f {
				out = append(out, netip.PrefixFrom(addr, o.prefixLength(addr)))
				break
			}
		}
	}
	return out
}

// mayServe reports whether the rules lead to one of an attachment's addresses, or
// nothing tells. Runtimes attach a container's lo with the same mappings as its
// eth0, and on nftables both have the container's ID alone.
func (o *owner) mayServe(addresses []netip.Prefix) bool {
	return len(addresses) == 0 || len(o.forwards) == 0 || slices.ContainsFunc(o.forwards, func(fw hostport.Forward) bool {
		return slices.ContainsFunc(addresses, func(p netip.Prefix) bool { return p.Addr() == fw.To.Addr() })
	})
}

func (o *owner) prefixLength(addr netip.Addr) int {
	for _, p := range o.subnets {
		if p.Bits() > 0 && p.Contains(addr) {
			return p.Bits()
		}
	}
	return addr.BitLen()
}

// mappings returns the port mappings that the rules serve.
func (o *owner) mappings() []hostport.Mapping {
	a := hostport.Attachment{Addresses: o.addresses()}
	for _, fw := range o.forwards {
		m := hostport.Mapping{HostIP: fw.HostIP, HostPort: fw.HostPort, ContainerPort: fw.To.Port(), Protocol: fw.Protocol}
		if !fw.HostIP.IsValid() {
			m.HostIP = backend.Wildcard(hostport.FamilyOf(fw.To.Addr()))
		}
		a.Mappings = append(a.Mappings, m)
	}
	out := backend.JoinFamilies(&a, func(hostport.Mapping) bool { return false })
	slices.SortStableFunc(out, func(a, b hostport.Mapping) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.HostPort, b.HostPort), a.HostIP.Compare(b.HostIP))
	})
	return out
}
