package explain

import (
	"net/netip"
	"slices"
)

// translate walks the nat chains of a hook: the first translation wins, and is
// applied to the packet.
//
// Of chains with the same priority, such as PREROUTING of iptables and
// nat-prerouting of kube-proxy's nftables mode, the kernel first runs the one
// that was registered last (nf_hook_entries_grow), and it does not show when
// that was. Handles do not help. The handle of a table shows which table is
// newer, but iptables-nft adds a base chain to its table only when a rule first
// needs it, a dormant table registers its chains again when it becomes active,
// and handles of chains count within their table. iptables-legacy has none.
// nfnetlink_hook names only the dispatcher of nat chains; since b010e2a4a9ac
// (July 2026) it lists the chains in their order, but no kernel that hostport
// is tested on has that. So every chain of the priority is walked, and if
// several take the packet, with different results, they are rivals.
func (rs ruleset) translate(hook string, p *Packet) passage {
	out := passage{action: actionAccept}
	chains := rs.at(hook, p.family(), true)
	for len(chains) > 0 {
		same := 1
		for same < len(chains) && chains[same].priority == chains[0].priority {
			same++
		}
		var takers []passage
		var packets []*Packet // the packet after each taker
		for _, c := range chains[:same] {
			q := p.clone()
			e, site, doubts := walk(c, q, 0)
			doubts = matter(doubts, e, site)
			out.doubts = append(out.doubts, doubts...)
			if e.action != actionAccept && !(e.action.lost() && len(doubts) > 0) {
				takers = append(takers, passage{action: e.action, site: site, to: e.translate(q), connections: e.packets})
				packets = append(packets, q)
				continue
			}
			*p = *q
			if site.Rule != "" && site.Component != componentHostport && out.accepted == (Site{}) {
				out.accepted = site
			}
		}
		if len(takers) > 0 {
			// Continue with our own translation, if there is one.
			ours := max(0, slices.IndexFunc(takers, func(t passage) bool { return t.site.Component == componentHostport }))
			*p = *packets[ours]
			taken := takers[ours]
			taken.accepted, taken.doubts = out.accepted, out.doubts
			taken.rivals = slices.DeleteFunc(takers, func(t passage) bool {
				// kube-proxy chooses an endpoint at random: it may choose another one.
				chosen := t.site.Component == componentProxy && taken.site.Component != componentProxy
				return t.to == taken.to && !chosen
			})
			return taken
		}
		chains = chains[same:]
	}
	return out
}

// translate applies a translation to the packet. It returns the new
// destination, or the new source, and the zero AddrPort for any other action.
func (e effect) translate(p *Packet) netip.AddrPort {
	switch e.action {
	case actionDNAT, actionRedirect:
		p.DNAT = true
		p.Destination = translatedTo(p.Destination, e.to)
		return p.Destination
	case actionSNAT:
		p.SNAT = true
		p.Source = translatedTo(p.Source, e.to)
		return p.Source
	case actionMasquerade:
		p.SNAT = true
		p.Source = netip.AddrPortFrom(p.node.sourceFor(p.Out, p.Destination.Addr()), p.Source.Port())
		return p.Source
	default:
		return netip.AddrPort{}
	}
}

// translatedTo applies a translation, whose address or port may be missing.
func translatedTo(from, to netip.AddrPort) netip.AddrPort {
	addr, port := from.Addr(), from.Port()
	if to.Addr().IsValid() && !to.Addr().IsUnspecified() {
		addr = to.Addr()
	}
	if to.Port() != 0 {
		port = to.Port()
	}
	return netip.AddrPortFrom(addr, port)
}
