package iptables

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// The tables that hold rules of ours, the built-in chains that lead to ours, and the
// chain of kube-proxy that must stay ahead of ours in them.
const (
	natTable = "nat"
	rawTable = "raw"

	preroutingChain  = "PREROUTING"
	outputChain      = "OUTPUT"
	postroutingChain = "POSTROUTING"
	servicesChain    = "KUBE-SERVICES"
)

// The chains of ours, in table nat unless another one is named. Each is created for
// the first attachment that needs it and deleted with the last.
const (
	prefix = "CNI-HP-" // starts the name of every chain of ours, and of no other program's

	dnatChain  = prefix + "DNAT"                        // gets packets to the node's own addresses, dispatches them by protocol and port range
	vrfChain   = prefix + "VRF"                         // gets packets to an address in a VRF, leads to dnatChain
	masqChain  = prefix + "MASQ" + backend.LayoutSuffix // gets all packets in POSTROUTING, dispatches them by mark bit
	guardChain = prefix + "GUARD"                       // in table raw: gets packets that did not come from lo, drops those from or to 127.0.0.0/8

	// Per mark bit, prefix + "MASQ-13": clears the mark and masquerades. A chain for
	// each bit, as that for VRFs, so that the jump to it is unique by its target.
	//
	// Per protocol and the first hexadecimal digit of the host port, prefix + "TCP-1",
	// and per the first two, prefix + "TCP-1F": dispatch by the next digit. Per the
	// first three, prefix + "TCP-1F9": the mark and DNAT rules of the attachments.

	// Per attachment whose rules reference something foreign (an external mark chain,
	// or whatever its conditions match), its mark and DNAT rules. They can be removed
	// when that is gone, because the rules in shared chains do not reference it.
	ownPrefix = prefix + "OWN-"

	// Per attachment with conditions, jumps to its own chain for packets that meet them,
	// in rules of their own: matches on addresses would conflict with ours.
	conditionPrefix = prefix + "IF-"

	// Empty, and not jumped to, see history.
	fingerprintPrefix = prefix + "V-"
	followedPrefix    = prefix + "OLD-"
)

// ours reports whether a chain of that name belongs to this backend.
func ours(chain string) bool { return strings.HasPrefix(chain, prefix) && plain(chain) }

// plain reports whether a chain name can be written as it is. The kernel accepts
// others too, which the tools list in a form that they cannot read.
func plain(chain string) bool {
	return chain != "" && chain[0] != '-' && !strings.ContainsFunc(chain, func(r rune) bool { return !plainRune(r) })
}

// attachmentChain returns the name of an attachment's chain with this prefix.
func attachmentChain(prefix string, k hostport.Key) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(k.String())) // never fails
	return numbered(prefix, h.Sum64())
}

// numbered returns a chain name that ends in a hash or a fingerprint.
func numbered(prefix string, n uint64) string { return fmt.Sprintf("%s%016x", prefix, n) }

// Concerned reports whether a change of nf_tables may have touched our rules, in
// the tables of the nf_tables variant. chain is "" if the table itself changed.
func Concerned(family uint8, table, chain string) bool {
	return slices.ContainsFunc(hostport.Families(), func(f hostport.Family) bool {
		return nfnetlink.Family(f) == family && slices.Contains(tablesOf(f), table)
	}) && (strings.HasPrefix(chain, prefix) || slices.Contains([]string{"", preroutingChain, outputChain, postroutingChain}, chain))
}

// OfAdd reports whether a new chain is one that only an ADD creates, provided that the same
// transaction deletes nothing, as restoring a snapshot does.
func OfAdd(table, chain string) bool {
	return table == natTable && strings.HasPrefix(chain, followedPrefix)
}

// toNode matches packets to the node's own addresses. Forwarded packets are never mapped.
const toNode = "-m addrtype --dst-type LOCAL"

// toInterface matches packets to an address of the interface they arrive on, if
// it is in a VRF: such an address is only in the VRF's routing table, and toNode
// looks it up in the main ones.
const toInterface = "-m addrtype ! --dst-type LOCAL -m addrtype --dst-type LOCAL --limit-iface-in"

// share adds the shared chains that attachment a needs, except those of port ranges.
func (w *wanted) share(f hostport.Family, a *hostport.Attachment) {
	if needsGuard(f, a) {
		// With route_localnet the kernel accepts 127.0.0.0/8 from the wire (CVE-2020-8558).
		w.need(chain{
			group:  group{chainID{rawTable, guardChain}, nil, []string{"-d 127.0.0.0/8 -j DROP", "-s 127.0.0.0/8 -j DROP"}},
			jumps:  []rule{{chainID{rawTable, preroutingChain}, "! -i lo -j " + guardChain}},
			verb:   "-I",
			usedBy: anyOther(func(o *hostport.Attachment) bool { return needsGuard(f, o) }),
		})
	}
	everyone := func(backend.Others) (bool, error) { return true, nil }
	w.need(chain{
		group:  group{chainID: inNat(dnatChain)},
		jumps:  []rule{{inNat(preroutingChain), toNode + " -j " + dnatChain}, {inNat(outputChain), toNode + " -j " + dnatChain}},
		usedBy: everyone,
	})
	w.need(chain{
		group:  group{inNat(vrfChain), nil, []string{"-j " + dnatChain}},
		jumps:  []rule{{inNat(preroutingChain), toInterface + " -j " + vrfChain}},
		usedBy: everyone,
	})
	w.need(chain{
		group:  group{chainID: inNat(masqChain)},
		jumps:  []rule{{inNat(postroutingChain), "-j " + masqChain}},
		verb:   "-I", // a main plugin's masquerading may accept traffic within its subnet
		usedBy: everyone,
	})
	if marks(f, a) {
		bit := a.Options.MarkMasqBit
		mark, name := markValue(bit), fmt.Sprintf("%s-%d", masqChain, bit)
		w.need(chain{
			// Otherwise the mark would stay on the packet through a tunnel, and the outer
			// packet would be masqueraded as well.
			group:  group{inNat(name), nil, []string{"-j MARK --set-xmark 0x0/" + mark, "-j MASQUERADE"}},
			jumps:  []rule{{inNat(masqChain), fmt.Sprintf("-m mark --mark %[1]s/%[1]s -j %[2]s", mark, name)}},
			usedBy: anyOther(func(o *hostport.Attachment) bool { return o.Options.MarkMasqBit == bit && marks(f, o) }),
		})
	}
}

// rangeBits are the numbers of a host port's lowest bits that the port ranges of each
// level ignore. A packet passes at most 16 rules a protocol, 16, 16, and 16 * 3 in the
// chain of its range. With ranges of 256 ports in one first level it passed up to 256
// more, and with 10,000 mappings on the node 23 % fewer UDP flows began in a second than
// with one (iptables-nft 1.8.9, Linux 6.18).
var rangeBits = [...]int{12, 8, 4}

// spread adds the chains that lead to the rules of a host port, and returns the
// last, which all ports with the digits in its name share.
func (w *wanted) spread(f hostport.Family, p hostport.Protocol, port uint16) chainID {
	parent := inNat(dnatChain)
	for _, bits := range rangeBits {
		name := fmt.Sprintf("%s%s%s-%0*X", prefix, strings.ToUpper(string(p)), backend.LayoutSuffix, (16-bits)/4, port>>bits)
		first := port >> bits << bits
		last := first | (1<<bits - 1)
		if w.at[inNat(name)] == nil { // else its jump is not written again for each of thousands of ports
			w.need(chain{
				group:  group{chainID: inNat(name)},
				jumps:  []rule{{parent, fmt.Sprintf("-p %[1]s -m %[1]s --dport %[2]d:%[3]d -j %[4]s", p, first, last, name)}},
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

// markValue returns the mark with only this bit set, as iptables-save prints it.
func markValue(bit int) string { return fmt.Sprintf("%#x", uint32(1)<<bit) }

// target returns the chain or extension that a rule jumps to, or "".
func target(spec string) string { return ParseFields(spec).Target }
