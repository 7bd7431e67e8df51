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

// wanted are the rules that one attachment has in one family.
type wanted struct {
	// chains are those that it needs: the shared ones, parents first, then its own.
	chains []chain
	// ports are its rules in the range chains, in order, those of one host port
	// together: they depend on their order and are replaced together.
	ports [][]rule
}

// wantRules returns the rules of attachment a in family f: none if it maps
// nothing there.
func wantRules(f hostport.Family, a *hostport.Attachment) wanted {
	forwards := a.Forwards(f)
	if len(forwards) == 0 {
		return wanted{}
	}
	w := wanted{chains: sharedChains(f, a, forwards)}
	conditions := alternatives(a.Options.Conditions(f))
	clients := a.Clients(f)
	own := chain{own: true, place: place{natTable, attachmentChain(ownPrefix, a.Key)}}
	gate := chain{own: true, place: place{natTable, attachmentChain(conditionPrefix, a.Key)}}
	apart, first := false, own.name
	switch {
	case len(conditions) > 0:
		apart, first = true, gate.name
	case a.Options.ExternalSetMarkChain != "" && len(clients) > 0:
		apart = true
	}
	comment := quote(a.Tag(maxComment))
	lastPort := ""
	for _, fw := range forwards {
		in := rangeChain(fw.Protocol, fw.HostPort)
		port := fmt.Sprintf("-p %[1]s -m %[1]s --dport %[2]d", fw.Protocol, fw.HostPort)
		if port != lastPort { // forwards of one port follow each other
			w.ports = append(w.ports, nil)
			for _, c := range conditions {
				gate.body = append(gate.body, conditionSpec(port, c, own.name))
			}
		}
		lastPort = port
		to := ""
		if fw.HostIP.IsValid() {
			to = "-d " + netip.PrefixFrom(fw.HostIP, fw.HostIP.BitLen()).String() + " "
		}
		var specs []string
		for _, c := range clients {
			specs = append(specs, source(c)+to+port+" -j "+markTarget(a.Options))
		}
		specs = append(specs, fmt.Sprintf("%s%s -m comment --comment %s -j DNAT --to-destination %s", to, port, comment, fw.To))
		if apart {
			own.body = append(own.body, specs...)
			specs = []string{to + port + " -j " + first}
		}
		group := &w.ports[len(w.ports)-1]
		for _, s := range specs {
			*group = append(*group, rule{chain: in, spec: s})
		}
	}
	if apart {
		w.chains = append(w.chains, own)
	}
	if len(conditions) > 0 {
		w.chains = append(w.chains, gate)
	}
	return w
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
