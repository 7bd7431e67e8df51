package iptables

import (
	"fmt"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// toInterface matches packets to an address of the interface that they come by,
// where that is in a VRF: such an address is in the VRF's table of routes alone,
// and toNode asks the main ones.
const toInterface = "-m addrtype ! --dst-type LOCAL -m addrtype --dst-type LOCAL --limit-iface-in"

// share adds the shared chains that attachment a needs in family f, but for those
// of port ranges.
func (w *wanted) share(f hostport.Family, a *hostport.Attachment) {
	if needsGuard(f, a) {
		// route_localnet accepts 127.0.0.0/8 from the wire (CVE-2020-8558).
		w.need(chain{
			place:  place{rawTable, guardChain},
			jumps:  []jump{{rule: rule{place{rawTable, preroutingChain}, "! -i lo -j " + guardChain}, first: true}},
			body:   []string{"-d 127.0.0.0/8 -j DROP", "-s 127.0.0.0/8 -j DROP"},
			usedBy: anyOther(func(o *hostport.Attachment) bool { return needsGuard(f, o) }),
		})
	}
	everyone := func(backend.Others) (bool, error) { return true, nil }
	w.need(chain{
		place: inNat(dnatChain), open: true, usedBy: everyone,
		jumps: []jump{
			{rule: rule{inNat(preroutingChain), toNode + " -j " + dnatChain}},
			{rule: rule{inNat(outputChain), toNode + " -j " + dnatChain}},
		},
	})
	// A chain of its own: the guard tells rules of one chain apart by their target.
	w.need(chain{
		place: inNat(vrfChain), usedBy: everyone,
		jumps: []jump{{rule: rule{inNat(preroutingChain), toInterface + " -j " + vrfChain}}},
		body:  []string{"-j " + dnatChain},
	})
	w.need(chain{
		place: inNat(masqChain), open: true, usedBy: everyone,
		// A main plugin's masquerading may accept what stays in its subnet.
		jumps: []jump{{rule: rule{inNat(postroutingChain), "-j " + masqChain}, first: true}},
	})
	if marks(f, a) {
		bit := a.Options.MarkMasqBit
		mark, name := markValue(bit), fmt.Sprintf("%s-%d", masqChain, bit)
		w.need(chain{
			place: inNat(name),
			jumps: []jump{{rule: rule{inNat(masqChain), fmt.Sprintf("-m mark --mark %[1]s/%[1]s -j %[2]s", mark, name)}}},
			// The mark would otherwise stay on the packet through a tunnel, and the
			// outer packet be masqueraded as well.
			body:   []string{"-j MARK --set-xmark 0x0/" + mark, "-j MASQUERADE"},
			usedBy: anyOther(func(o *hostport.Attachment) bool { return o.Options.MarkMasqBit == bit && marks(f, o) }),
		})
	}
}

// spread adds the chains that lead to the rules of a host port, and returns the
// last: all ports that have the digits in its name share it.
func (w *wanted) spread(f hostport.Family, p hostport.Protocol, port uint16) place {
	parent := inNat(dnatChain)
	for _, bits := range rangeBits {
		name := fmt.Sprintf("%s%s-%0*X", prefix, strings.ToUpper(string(p)), (16-bits)/4, port>>bits)
		first := port >> bits << bits
		last := first | (1<<bits - 1)
		if _, known := w.at[inNat(name)]; !known {
			to := jump{rule: rule{parent, fmt.Sprintf("-p %[1]s -m %[1]s --dport %[2]d:%[3]d -j %[4]s", p, first, last, name)}}
			w.need(chain{
				place: inNat(name), open: true, jumps: []jump{to},
				usedBy: func(o backend.Others) (bool, error) { return o.InUse(f, p, first, last) },
			})
		}
		parent = inNat(name)
	}
	return parent
}

func anyOther(match func(*hostport.Attachment) bool) func(backend.Others) (bool, error) {
	return func(o backend.Others) (bool, error) { return o.Any(match) }
}

// needsGuard reports whether route_localnet is set for the attachment.
func needsGuard(f hostport.Family, a *hostport.Attachment) bool {
	return f == hostport.IPv4 && a.LoopbackInterface != "" && len(a.Forwards(f)) > 0
}

// marks reports whether the attachment's clients are marked by rules of ours.
func marks(f hostport.Family, a *hostport.Attachment) bool {
	return a.Options.ExternalSetMarkChain == "" && len(a.Clients(f)) > 0 && len(a.Forwards(f)) > 0
}

// markValue is the mark with only that bit set, as iptables-save prints it.
func markValue(bit int) string { return fmt.Sprintf("%#x", uint32(1)<<bit) }

// target is the chain or extension that a rule jumps to, or "".
func target(spec string) string { return ParseFields(spec).Target }
