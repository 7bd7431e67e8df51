package iptables

import (
	"fmt"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// chain is a chain of ours that an attachment needs.
type chain struct {
	place
	// own says that it has rules of this attachment only.
	own bool
	// jumps lead to a shared chain; the chains that they are in are made earlier.
	jumps []rule
	// body is what the chain starts with.
	body []string
	// usedBy asks whether an attachment that a change leaves alone needs a shared
	// chain; nil for one that every attachment of the family needs.
	usedBy func(backend.Others) (bool, error)
}

// rule is a rule in a chain, as iptables-save prints it after "-A".
type rule struct {
	chain string
	spec  string
	// first puts the rule at the head of its chain instead of the end.
	first bool
}

// toInterface matches packets to an address of the interface that they come by,
// where that is in a VRF: such an address is in the VRF's table of routes alone,
// and toNode asks the main ones.
const toInterface = "-m addrtype ! --dst-type LOCAL -m addrtype --dst-type LOCAL --limit-iface-in"

func (r rule) String() string { return r.chain + " " + r.spec }

// sharedChains returns the shared chains that attachment a needs for what it maps
// in family f, parents first.
func sharedChains(f hostport.Family, a *hostport.Attachment, forwards []hostport.Forward) []chain {
	var out []chain
	if needsGuard(f, a) {
		out = append(out, loopbackGuard(f))
	}
	out = append(out, baseChains()...)
	if marks(f, a) {
		out = append(out, markedChain(f, a.Options.MarkMasqBit))
	}
	seen := make(map[portRange]bool)
	for _, fw := range forwards {
		parent := dnatChain
		for _, bits := range rangeBits {
			r := rangeOf(fw.Protocol, fw.HostPort, bits)
			if !seen[r] {
				seen[r] = true
				out = append(out, rangeChainIn(f, r, parent))
			}
			parent = r.chain()
		}
	}
	return out
}

// needsGuard reports whether route_localnet is set for the attachment.
func needsGuard(f hostport.Family, a *hostport.Attachment) bool {
	return f == hostport.IPv4 && a.LoopbackInterface != "" && len(a.Forwards(f)) > 0
}

// marks reports whether the attachment's clients are marked by rules of ours.
func marks(f hostport.Family, a *hostport.Attachment) bool {
	return a.Options.ExternalSetMarkChain == "" && len(a.Clients(f)) > 0
}

// baseChains come with the first attachment of a family and go with the last.
func baseChains() []chain {
	return []chain{
		{
			place: place{natTable, dnatChain},
			jumps: []rule{
				{chain: preroutingChain, spec: toNode + " -j " + dnatChain},
				{chain: outputChain, spec: toNode + " -j " + dnatChain},
			},
		},
		{
			// A chain of its own: the guard tells rules of one chain apart by
			// their target.
			place: place{natTable, vrfChain},
			jumps: []rule{{chain: preroutingChain, spec: toInterface + " -j " + vrfChain}},
			body:  []string{"-j " + dnatChain},
		},
		{
			place: place{natTable, masqChain},
			// A main plugin's masquerading may accept what stays in its subnet.
			jumps: []rule{{chain: postroutingChain, spec: "-j " + masqChain, first: true}},
		},
	}
}

func markedChain(f hostport.Family, bit int) chain {
	mark := markValue(bit)
	name := markChain(bit)
	return chain{
		place: place{natTable, name},
		jumps: []rule{{chain: masqChain, spec: fmt.Sprintf("-m mark --mark %[1]s/%[1]s -j %[2]s", mark, name)}},
		body: []string{
			// The mark would otherwise stay on the packet through a tunnel, and
			// the outer packet be masqueraded as well.
			fmt.Sprintf("-j MARK --set-xmark 0x0/%s", mark),
			"-j MASQUERADE",
		},
		usedBy: func(o backend.Others) (bool, error) {
			return o.Any(func(a *hostport.Attachment) bool {
				return a.Options.MarkMasqBit == bit && marks(f, a) && len(a.Forwards(f)) > 0
			})
		},
	}
}

func loopbackGuard(f hostport.Family) chain {
	// route_localnet accepts 127.0.0.0/8 from the wire (CVE-2020-8558).
	return chain{
		place: place{rawTable, guardChain},
		jumps: []rule{{chain: preroutingChain, spec: "! -i lo -j " + guardChain, first: true}},
		body: []string{
			"-d 127.0.0.0/8 -j DROP",
			"-s 127.0.0.0/8 -j DROP",
		},
		usedBy: func(o backend.Others) (bool, error) {
			return o.Any(func(a *hostport.Attachment) bool { return needsGuard(f, a) })
		},
	}
}

func rangeChainIn(f hostport.Family, r portRange, parent string) chain {
	return chain{
		place: place{natTable, r.chain()},
		jumps: []rule{{chain: parent, spec: r.match() + " -j " + r.chain()}},
		usedBy: func(o backend.Others) (bool, error) {
			first, last := r.ports()
			return o.InUse(f, r.protocol, first, last)
		},
	}
}

// markValue is the mark with only that bit set, as iptables-save prints it.
func markValue(bit int) string { return fmt.Sprintf("%#x", uint32(1)<<bit) }

// target is the chain or extension that a rule jumps to, or "".
func target(spec string) string { return ParseFields(spec).Target }
