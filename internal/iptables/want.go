package iptables

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// wanted are the rules that attachments need in one family.
type wanted struct {
	// chains are those that the attachments need, each once: shared chains parents
	// first, and an attachment's own chains after its shared ones.
	chains []*chain
	at     map[chainID]*chain
	// ports are the rules in range chains, one group for each host port.
	ports []group
}

// group is rules in a chain that depend on their order and are replaced together.
type group struct {
	chainID
	// owner is the attachment that needs them; nil if more than one may.
	owner *hostport.Attachment
	specs []string
}

func (g group) equal(o group) bool { return g.chainID == o.chainID && slices.Equal(g.specs, o.specs) }

// chain is a chain of ours that attachments need, with its initial rules. If it has
// none, jumps to other chains and rules of ports are added to it.
type chain struct {
	group
	// jumps lead to a shared chain from chains that are created earlier. verb adds
	// them: "-I" at the head, "-A" at the end; need takes "" for "-A".
	jumps []rule
	verb  string
	// usedBy reports whether an attachment that a change leaves alone needs a shared chain.
	usedBy func(backend.Others) (bool, error)
}

// rule is a rule in a chain, as iptables-save prints it after "-A CHAIN".
type rule struct {
	chainID
	spec string
}

// wantRules returns the rules of all in family f, and the chain that marks them
// with fingerprint fp unless that is 0. It is empty if they map nothing in f.
func wantRules(f hostport.Family, all []*hostport.Attachment, fp uint64) *wanted {
	w := &wanted{at: make(map[chainID]*chain)}
	for _, a := range all {
		if forwards := a.Forwards(f); len(forwards) > 0 {
			w.attach(f, a, forwards)
		}
	}
	if fp != 0 {
		w.need(chain{group: group{chainID: inNat(numbered(fingerprintPrefix, fp))}})
	}
	return w
}

func (w *wanted) need(ch chain) {
	if w.at[ch.chainID] == nil {
		ch.verb = cmp.Or(ch.verb, "-A")
		w.at[ch.chainID] = &ch
		w.chains = append(w.chains, &ch)
	}
}

// attach adds the rules of attachment a with these forwards.
func (w *wanted) attach(f hostport.Family, a *hostport.Attachment, forwards []hostport.Forward) {
	w.share(f, a)
	conditions := alternatives(a.Options.Conditions(f))
	clients := a.Clients(f)
	own := group{inNat(attachmentChain(ownPrefix, a.Key)), a, nil}
	gate := group{inNat(attachmentChain(conditionPrefix, a.Key)), a, nil}
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
			w.ports = append(w.ports, group{in, a, nil})
			for _, c := range conditions {
				gate.specs = append(gate.specs, port+c+" -j "+own.name)
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
			own.specs = append(own.specs, specs...)
			specs = []string{to + port + " -j " + own.name}
			if len(conditions) > 0 {
				specs = []string{to + port + " -j " + gate.name}
			}
		}
		g := &w.ports[len(w.ports)-1]
		g.specs = append(g.specs, specs...)
	}
	for _, g := range []group{own, gate} { // conditions need both, one after the other
		if len(g.specs) > 0 {
			w.need(chain{group: g})
		}
	}
}

// alternatives returns the conditions of an attachment as text, one for each rule
// that it needs: for a list such as "-s 192.0.2.1,192.0.2.2" iptables makes a
// rule for each address.
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

// addressOptions are followed by an address, or by a list of them.
var addressOptions = [...]string{"-s", "--src", "--source", "-d", "--dst", "--destination"}

func addressOption(w string) bool { return slices.Contains(addressOptions[:], w) }
