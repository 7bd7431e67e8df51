package explain

import "net/netip"

// index finds the rules of a long chain that may match a packet. KUBE-SERVICES
// has one rule per Service, and nearly all are for another destination.
type index struct {
	byHost map[netip.Addr][]rule // in order, merged with those of rest
	rest   []rule                // rules for more than one destination
}

// longChain is the number of rules from which a chain gets an index.
const longChain = 64

// candidates returns the rules that may match a packet, in order.
func (c *chain) candidates(p *Packet) []rule {
	if len(c.rules) < longChain {
		return c.rules
	}
	if c.index == nil {
		c.index = newIndex(c.rules)
	}
	if some, ok := c.index.byHost[p.Destination.Addr()]; ok {
		return some
	}
	return c.index.rest
}

func newIndex(rules []rule) *index {
	x := &index{byHost: map[netip.Addr][]rule{}}
	hosts := make([]netip.Addr, len(rules)) // invalid for more than one
	for i, r := range rules {
		if ipt, ok := r.(*iptRule); ok {
			hosts[i] = ipt.host()
		}
		if hosts[i].IsValid() {
			x.byHost[hosts[i]] = nil
		} else {
			x.rest = append(x.rest, r)
		}
	}
	if len(x.rest) > longChain {
		// Every host's list would repeat all of rest.
		return &index{rest: rules}
	}
	seen := map[netip.Addr]int{} // number of rest's rules in the list
	rest := 0
	for i, r := range rules {
		h := hosts[i]
		if !h.IsValid() {
			rest++
			continue
		}
		x.byHost[h] = append(append(x.byHost[h], x.rest[seen[h]:rest]...), r)
		seen[h] = rest
	}
	for h := range x.byHost {
		x.byHost[h] = append(x.byHost[h], x.rest[seen[h]:]...)
	}
	return x
}
