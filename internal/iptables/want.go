package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// wanted are the rules that attachments have in one family.
type wanted struct {
	// chains are those that the attachments need, each once: the shared ones that
	// lead to a chain before it, and those of an attachment's own after them.
	chains []*chain
	at     map[place]*chain
	ports  []portRules
}

// chain is a chain of ours that attachments need.
type chain struct {
	place
	// owner has the chain for itself; nil for a shared one.
	owner *hostport.Attachment
	// jumps lead to a shared chain from chains that are made earlier.
	jumps []jump
	// body is what the chain starts with.
	body []string
	// open says that others put their jumps and the rules of ports into it.
	open bool
	// usedBy asks whether an attachment that a change leaves alone needs a shared
	// chain.
	usedBy func(backend.Others) (bool, error)
}

// rule is a rule in a chain, as iptables-save prints it after "-A CHAIN".
type rule struct {
	place
	spec string
}

// jump is a rule that leads to a shared chain. first puts it at the head of its
// chain instead of the end.
type jump struct {
	rule
	first bool
}

// portRules are the rules that an attachment has in a range chain for one host
// port. They depend on their order and are replaced together.
type portRules struct {
	place
	owner *hostport.Attachment
	specs []string
}

func (g portRules) equal(o portRules) bool {
	return g.place == o.place && slices.Equal(g.specs, o.specs)
}

// wantRules returns the rules of all in family f, and the chain that marks them
// with fingerprint fp unless that is 0. It is empty if they map nothing there.
func wantRules(f hostport.Family, all []*hostport.Attachment, fp uint64) *wanted {
	w := &wanted{at: make(map[place]*chain)}
	for _, a := range all {
		if forwards := a.Forwards(f); len(forwards) > 0 {
			w.attach(f, a, forwards)
		}
	}
	if fp != 0 {
		w.need(chain{place: inNat(numbered(fingerprintPrefix, fp))})
	}
	return w
}

// need adds a chain, unless it is known.
func (w *wanted) need(ch chain) {
	if w.at[ch.place] == nil {
		w.at[ch.place] = &ch
		w.chains = append(w.chains, &ch)
	}
}

// attach adds the rules of attachment a, which has these forwards.
func (w *wanted) attach(f hostport.Family, a *hostport.Attachment, forwards []hostport.Forward) {
	w.share(f, a)
	conditions := alternatives(a.Options.Conditions(f))
	clients := a.Clients(f)
	own := chain{owner: a, place: inNat(attachmentChain(ownPrefix, a.Key))}
	gate := chain{owner: a, place: inNat(attachmentChain(conditionPrefix, a.Key))}
	external := a.Options.ExternalSetMarkChain
	mark := quote(external)
	if external == "" {
		mark = fmt.Sprintf("MARK --set-xmark %[1]s/%[1]s", markValue(a.Options.MarkMasqBit))
	}
	apart := len(conditions) > 0 || external != "" && len(clients) > 0
	comment := quote(a.Tag(255)) // XT_MAX_COMMENT_LEN, less the terminator
	lastPort := ""
	for _, fw := range forwards {
		in := w.spread(f, fw.Protocol, fw.HostPort)
		port := fmt.Sprintf("-p %[1]s -m %[1]s --dport %[2]d", fw.Protocol, fw.HostPort)
		if port != lastPort { // forwards of one port follow each other
			w.ports = append(w.ports, portRules{place: in, owner: a})
			for _, c := range conditions {
				gate.body = append(gate.body, port+c+" -j "+own.name)
			}
		}
		lastPort = port
		to := ""
		if fw.HostIP.IsValid() {
			to = "-d " + netip.PrefixFrom(fw.HostIP, fw.HostIP.BitLen()).String() + " "
		}
		var specs []string
		for _, c := range clients {
			from := ""
			if c.Bits() > 0 { // else everyone
				from = "-s " + c.String() + " "
			}
			specs = append(specs, from+to+port+" -j "+mark)
		}
		specs = append(specs, fmt.Sprintf("%s%s -m comment --comment %s -j DNAT --to-destination %s", to, port, comment, fw.To))
		if apart {
			own.body = append(own.body, specs...)
			specs = []string{to + port + " -j " + own.name}
			if len(conditions) > 0 {
				specs = []string{to + port + " -j " + gate.name}
			}
		}
		group := &w.ports[len(w.ports)-1]
		group.specs = append(group.specs, specs...)
	}
	if apart {
		w.need(own)
	}
	if len(conditions) > 0 {
		w.need(gate)
	}
}

// alternatives are the conditions of an attachment as text, one for each rule that
// it takes: iptables makes a rule for each address of a list such as
// "-s 192.0.2.1,192.0.2.2".
func alternatives(words []string) []string {
	if len(words) == 0 {
		return nil
	}
	out := []string{""}
	for i, w := range words {
		parts := []string{w}
		if i > 0 && addressOption(words[i-1]) {
			parts = strings.Split(w, ",")
		}
		var next []string
		for _, o := range out {
			for _, p := range parts {
				next = append(next, o+" "+quote(p))
			}
		}
		out = next
	}
	return out
}

func addressOption(w string) bool {
	return slices.Contains([]string{"-s", "--src", "--source", "-d", "--dst", "--destination"}, w)
}
