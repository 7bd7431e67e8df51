package iptables

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// maxComment is the longest text that the kernel keeps in a comment match
// (XT_MAX_COMMENT_LEN, less the terminator).
const maxComment = 255

// ownRules are the rules that attachment a alone has in family f, in order, and
// the chain that it alone uses: "" if it has no conditions.
func ownRules(f hostport.Family, a *hostport.Attachment) (chain string, rules []rule) {
	forwards := a.Forwards(f)
	if len(forwards) == 0 {
		return "", nil
	}
	conditions := alternatives(a.Options.Conditions(f))
	if len(conditions) > 0 {
		chain = conditionChain(a.Key)
	}
	clients := a.Clients(f)
	comment := quote(a.Tag(maxComment))
	lastPort := ""
	for _, fw := range forwards {
		in := rangeChain(fw.Protocol, fw.HostPort)
		port := fmt.Sprintf("-p %[1]s -m %[1]s --dport %[2]d", fw.Protocol, fw.HostPort)
		if chain != "" {
			// Forwards of one port follow each other: one way in serves all.
			if port != lastPort {
				for _, c := range conditions {
					rules = append(rules, rule{in, conditionSpec(port, c, chain)})
				}
			}
			lastPort = port
			in = chain
		}
		to := ""
		if fw.HostIP.IsValid() {
			to = "-d " + netip.PrefixFrom(fw.HostIP, fw.HostIP.BitLen()).String() + " "
		}
		for _, c := range clients {
			rules = append(rules, rule{in, source(c) + to + port + " -j " + markTarget(a.Options)})
		}
		rules = append(rules, rule{in, fmt.Sprintf("%s%s -m comment --comment %s -j DNAT --to-destination %s", to, port, comment, fw.To)})
	}
	return chain, rules
}

// source is the match for a client prefix: nothing, for everyone.
func source(p netip.Prefix) string {
	if p.Bits() == 0 {
		return ""
	}
	return "-s " + p.String() + " "
}

// markTarget is what is done with a packet that must be masqueraded later.
func markTarget(o hostport.Options) string {
	if o.ExternalSetMarkChain != "" {
		return quote(o.ExternalSetMarkChain)
	}
	return fmt.Sprintf("MARK --set-xmark %[1]s/%[1]s", markValue(o.MarkMasqBit))
}

// conditionSpec is the rule that lets packets to a port that meet condition c
// into the attachment's own chain.
func conditionSpec(port string, c []string, chain string) string {
	words := make([]string, len(c))
	for i, w := range c {
		words[i] = quote(w)
	}
	return port + " " + strings.Join(words, " ") + " -j " + chain
}
