package portmap

import (
	"crypto/sha512"
	"fmt"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/iptables"
	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// portmap's chains in table nat. Versions before 0.7 had CNI-HOSTPORT-SNAT and
// a CNI-SN-* chain for each container as well; portmap itself still removes
// those.
const (
	dnatChain    = "CNI-HOSTPORT-DNAT"    // from PREROUTING and OUTPUT: one jump a container and 15 ports
	setMarkChain = "CNI-HOSTPORT-SETMARK" // marks what is to be masqueraded
	masqChain    = "CNI-HOSTPORT-MASQ"    // from POSTROUTING: masquerades it
	oldSnatChain = "CNI-HOSTPORT-SNAT"

	ownerPrefix   = "CNI-DN-" // one chain a container, with its DNAT rules
	oldSnatPrefix = "CNI-SN-"
)

func sharedChains() []string { return []string{dnatChain, setMarkChain, masqChain, oldSnatChain} }

// chainName returns the name of a container's chain: its end is a hash of
// network and container ID. In all, iptables allows 28 characters.
func chainName(network, containerID string) string {
	return fmt.Sprintf("%s%x", ownerPrefix, sha512.Sum512([]byte(network+containerID)))[:28]
}

// natTable is table nat: the names of its chains, and the rules of each.
type natTable struct {
	chains []string
	rules  map[string][]natRule
}

// natRule is one rule, as text for a deletion and taken apart.
type natRule struct {
	spec string
	iptables.Fields
}

// parseNat reads the output of iptables-save. A rule that cannot be taken apart is
// another program's.
func parseNat(save string) (natTable, error) {
	chains, rules, err := iptables.ParseNat(save)
	t := natTable{chains, make(map[string][]natRule)}
	for chain, specs := range rules {
		for _, spec := range specs {
			x, _ := iptables.ParseFields(spec)
			t.rules[chain] = append(t.rules[chain], natRule{spec, x})
		}
	}
	return t, err
}

// tell adds the containers that have a chain, in the order of the chains.
func (t natTable) tell(all *owners, f hostport.Family) {
	bit := t.markBit()
	for _, chain := range t.chains {
		if !strings.HasPrefix(chain, ownerPrefix) {
			continue
		}
		o := all.get(owner{chain: chain, backend: backend.Iptables, options: hostport.Options{MarkMasqBit: bit}})
		for _, r := range t.rules[dnatChain] {
			if r.Target == chain {
				o.enter(f, r.Fields)
			}
		}
		for _, r := range t.rules[chain] {
			o.read(r.Fields)
		}
	}
}

// markBit returns the bit that portmap's shared chain sets.
func (t natTable) markBit() int {
	for _, r := range t.rules[setMarkChain] {
		if bit, ok := r.MarkBit(); ok {
			return bit
		}
	}
	return netconf.DefaultMarkMasqBit
}

// enter reads a jump to the owner's chain.
func (o *owner) enter(f hostport.Family, x iptables.Fields) {
	// A comment that was cut, because it was longer than 255 bytes, names nobody.
	named, _ := strings.CutPrefix(x.Comment, `dnat name: "`)
	network, id, _ := strings.Cut(named, `" id: "`)
	if id, whole := strings.CutSuffix(id, `"`); whole && chainName(network, id) == o.chain {
		o.network, o.containerID = network, id
	}
	conditions := x.Conditions()
	// "-m multiport --dports 80,81" is portmap's, and ahead of the configuration's.
	if i := slices.Index(conditions, "--dports"); i >= 2 && i+2 <= len(conditions) {
		conditions = slices.Delete(conditions, i-2, i+2)
	}
	if f == hostport.IPv4 {
		o.options.ConditionsV4 = conditions
	} else {
		o.options.ConditionsV6 = conditions
	}
}

// read reads a rule of the owner's chain: it rewrites the destination, or jumps
// to the chain that marks for masquerading.
func (o *owner) read(x iptables.Fields) {
	switch {
	case x.Target == "DNAT" && x.To.IsValid():
		o.forwards = append(o.forwards, hostport.Forward{
			Protocol: x.Protocol, HostIP: x.Destination.Addr(), HostPort: x.Port, To: x.To,
		})
	case x.Target != "" && x.Target != "DNAT":
		o.options.SNAT = true
		if x.Target != setMarkChain {
			o.options.ExternalSetMarkChain = x.Target
			o.options.MarkMasqBit = netconf.DefaultMarkMasqBit
		}
		if x.Source.IsValid() {
			o.subnets = append(o.subnets, x.Source)
		} else {
			o.options.MasqueradeAll = true
		}
	}
}

// removal returns the text for iptables-restore --noflush that deletes the
// chains of some owners, and the shared chains if none of portmap's is left.
// It is "" if nothing has to go.
func (t natTable) removal(gone func(chain string) bool) string {
	var doomed []string
	last := true
	for _, chain := range t.chains {
		suffix, owned := ownerSuffix(chain)
		switch {
		case owned && gone(ownerPrefix+suffix):
			doomed = append(doomed, chain)
		case owned:
			last = false
		}
	}
	if last && !t.usedByOthers(doomed) {
		for _, chain := range sharedChains() {
			if slices.Contains(t.chains, chain) {
				doomed = append(doomed, chain)
			}
		}
	}
	if len(doomed) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("*nat\n")
	for _, chain := range t.chains {
		for _, r := range t.rules[chain] {
			if slices.Contains(doomed, r.Target) && !slices.Contains(doomed, chain) {
				fmt.Fprintf(&b, "-D %s %s\n", chain, r.spec)
			}
		}
	}
	for _, verb := range []string{"-F", "-X"} {
		for _, chain := range doomed {
			fmt.Fprintf(&b, "%s %s\n", verb, chain)
		}
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

func ownerSuffix(chain string) (string, bool) {
	for _, prefix := range []string{ownerPrefix, oldSnatPrefix} {
		if suffix, found := strings.CutPrefix(chain, prefix); found {
			return suffix, true
		}
	}
	return "", false
}

// usedByOthers reports whether a chain that portmap did not make jumps to a
// shared chain: an operator may mark by portmap's SETMARK chain.
func (t natTable) usedByOthers(doomed []string) bool {
	own := append(slices.Concat(sharedChains(), doomed), "PREROUTING", "OUTPUT", "POSTROUTING")
	for chain, rules := range t.rules {
		if !slices.Contains(own, chain) && slices.ContainsFunc(rules, func(r natRule) bool {
			return slices.Contains(sharedChains(), r.Target)
		}) {
			return true
		}
	}
	return false
}
