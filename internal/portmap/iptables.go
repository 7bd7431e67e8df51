package portmap

import (
	"crypto/sha512"
	"fmt"
	"slices"
	"strings"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/iptables"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// portmap's chains in table nat, since version 0.7.
const (
	dnatChain    = "CNI-HOSTPORT-DNAT"    // from PREROUTING and OUTPUT: one jump a container and 15 ports
	setMarkChain = "CNI-HOSTPORT-SETMARK" // marks what is to be masqueraded
	masqChain    = "CNI-HOSTPORT-MASQ"    // from POSTROUTING: masquerades it
	ownerPrefix  = "CNI-DN-"              // one chain a container, with its DNAT rules
)

func sharedChains() []string { return []string{dnatChain, setMarkChain, masqChain} }

// chainName returns the name of a container's chain: its end is a hash of
// network and container ID. In all, iptables allows 28 characters.
func chainName(network, containerID string) string {
	return fmt.Sprintf("%s%x", ownerPrefix, sha512.Sum512([]byte(network+containerID)))[:28]
}

// natTable is table nat of one tool: the names of its chains, and the rules of each.
type natTable struct {
	Tool
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
func parseNat(tool Tool, save string) (natTable, error) {
	chains, rules, err := iptables.ParseNat(save)
	t := natTable{tool, chains, make(map[string][]natRule)}
	for chain, specs := range rules {
		for _, spec := range specs {
			t.rules[chain] = append(t.rules[chain], natRule{spec, iptables.ParseFields(spec)})
		}
	}
	return t, err
}

// tell adds the containers that have a chain, in the order of the chains.
func (t natTable) tell(all *ruled) {
	for _, chain := range t.chains {
		if !strings.HasPrefix(chain, ownerPrefix) {
			continue
		}
		s := all.get(backend.Iptables, chain, "")
		for _, r := range t.rules[dnatChain] {
			// A comment that was cut, because it was longer than 255 bytes, names nobody.
			named, _ := strings.CutPrefix(r.Comment, `dnat name: "`)
			network, id, _ := strings.Cut(named, `" id: "`)
			if id, whole := strings.CutSuffix(id, `"`); whole && r.Target == chain && chainName(network, id) == chain {
				s.Network, s.ContainerID = network, id
			}
		}
		for _, r := range t.rules[chain] {
			if r.To.IsValid() {
				s.add(hostport.Mapping{Protocol: r.Protocol, HostIP: r.Destination.Addr(), HostPort: r.Port}, r.To)
			}
		}
	}
}

// removal returns the text for iptables-restore --noflush that deletes the
// chains of some containers, and the shared chains if none of portmap's is left.
// It is "" if nothing has to go.
func (t natTable) removal(gone map[string]bool) string {
	var doomed []string
	last := true
	for _, chain := range t.chains {
		if gone[chain] {
			doomed = append(doomed, chain)
		} else if strings.HasPrefix(chain, ownerPrefix) {
			last = false
		}
	}
	if last && !t.usedByOthers() {
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

// usedByOthers reports whether a chain that portmap did not make jumps to a
// shared chain: an operator may mark by portmap's SETMARK chain.
func (t natTable) usedByOthers() bool {
	own := append(sharedChains(), "PREROUTING", "OUTPUT", "POSTROUTING")
	for chain, rules := range t.rules {
		if !slices.Contains(own, chain) && !strings.HasPrefix(chain, ownerPrefix) && slices.ContainsFunc(rules, func(r natRule) bool {
			return slices.Contains(sharedChains(), r.Target)
		}) {
			return true
		}
	}
	return false
}
