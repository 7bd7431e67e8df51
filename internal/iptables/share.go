package iptables

import (
	"fmt"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// share is a chain that several attachments use, with what makes it reachable.
type share struct {
	// name is what the state counts users by: the family, then the object.
	name  string
	table string
	chain string
	// jumps lead to the chain; the chains that they are in are made earlier.
	jumps []jump
	// body is what the chain starts with.
	body []string
}

// jump is a rule whose target is a chain of ours.
type jump struct {
	rule
	// first puts the rule at the head of its chain instead of the end.
	first bool
}

// rule is a rule in a chain, as iptables-save prints it after "-A".
type rule struct {
	chain string
	spec  string
}

func (r rule) String() string { return r.chain + " " + r.spec }

// sharesOf are the shares that attachment a needs in family f, each after those
// that it hangs from. None if the attachment maps nothing in that family.
func sharesOf(f hostport.Family, a *hostport.Attachment) []share {
	forwards := a.Forwards(f)
	if len(forwards) == 0 {
		return nil
	}
	var out []share
	if f == hostport.IPv4 && a.LocalnetVia != "" {
		out = append(out, guardShare())
	}
	out = append(out, baseShare(f))
	if marks(f, a) {
		out = append(out, masqShare(f), markShare(f, a.Options.MarkMasqBit))
	}
	seen := make(map[portRange]bool)
	for _, fw := range forwards {
		parent := dnatChain
		for _, bits := range rangeBits {
			r := rangeOf(fw.Protocol, fw.HostPort, bits)
			if !seen[r] {
				seen[r] = true
				out = append(out, rangeShare(f, r, parent))
			}
			parent = r.chain()
		}
	}
	return out
}

// marks reports whether the attachment's clients are marked by rules of ours.
func marks(f hostport.Family, a *hostport.Attachment) bool {
	return a.Options.ExternalSetMarkChain == "" && len(a.Clients(f)) > 0
}

func baseShare(f hostport.Family) share {
	// Only packets to the node are mapped; those passing through are not ours.
	const spec = "-m addrtype --dst-type LOCAL -j " + dnatChain
	return share{
		name:  fmt.Sprintf("%d", f),
		table: natTable,
		chain: dnatChain,
		jumps: []jump{
			{rule: rule{preroutingChain, spec}},
			{rule: rule{outputChain, spec}},
		},
	}
}

func masqShare(f hostport.Family) share {
	return share{
		name:  fmt.Sprintf("%d/masq", f),
		table: natTable,
		chain: masqChain,
		// A main plugin's masquerading may accept what stays in its subnet.
		jumps: []jump{{rule: rule{postroutingChain, "-j " + masqChain}, first: true}},
	}
}

func markShare(f hostport.Family, bit int) share {
	mark := markValue(bit)
	chain := markChain(bit)
	return share{
		name:  fmt.Sprintf("%d/mark/%d", f, bit),
		table: natTable,
		chain: chain,
		jumps: []jump{{rule: rule{masqChain, fmt.Sprintf("-m mark --mark %[1]s/%[1]s -j %[2]s", mark, chain)}}},
		body: []string{
			// The mark would otherwise stay on the packet through a tunnel, and
			// the outer packet be masqueraded as well.
			fmt.Sprintf("-j MARK --set-xmark 0x0/%s", mark),
			"-j MASQUERADE",
		},
	}
}

func guardShare() share {
	// route_localnet accepts 127.0.0.0/8 from the wire (CVE-2020-8558).
	return share{
		name:  "4/guard",
		table: rawTable,
		chain: guardChain,
		jumps: []jump{{rule: rule{preroutingChain, "! -i lo -j " + guardChain}, first: true}},
		body: []string{
			"-d 127.0.0.0/8 -j DROP",
			"-s 127.0.0.0/8 -j DROP",
		},
	}
}

func rangeShare(f hostport.Family, r portRange, parent string) share {
	return share{
		name:  fmt.Sprintf("%d/%s/%s", f, r.protocol, strings.ToLower(r.digits())),
		table: natTable,
		chain: r.chain(),
		jumps: []jump{{rule: rule{parent, r.match() + " -j " + r.chain()}}},
	}
}

// markValue is the mark with only that bit set, as iptables-save prints it.
func markValue(bit int) string { return fmt.Sprintf("%#x", uint32(1)<<bit) }

// target is the chain or extension that a rule jumps to, or "".
func target(spec string) string {
	words := strings.Fields(spec)
	if strings.Contains(spec, `"`) {
		words, _ = split(spec) // what looks like a jump may be quoted
	}
	for i := len(words) - 2; i >= 0; i-- {
		if words[i] == "-j" || words[i] == "-g" {
			return words[i+1]
		}
	}
	return ""
}
