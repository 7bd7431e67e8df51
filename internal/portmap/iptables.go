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
	dnatChain    = "CNI-HOSTPORT-DNAT"    // from PREROUTING and OUTPUT: one jump per container and 15 ports
	setMarkChain = "CNI-HOSTPORT-SETMARK" // marks packets to masquerade
	masqChain    = "CNI-HOSTPORT-MASQ"    // from POSTROUTING: masquerades them
	ownerPrefix  = "CNI-DN-"              // one chain per container, with its DNAT rules
)

func sharedChains() []string { return []string{dnatChain, setMarkChain, masqChain} }

// chainName returns the name of a container's chain, which ends in a hash of
// network and container ID. iptables allows 28 characters in all.
func chainName(network, containerID string) string {
	return fmt.Sprintf("%s%x", ownerPrefix, sha512.Sum512([]byte(network+containerID)))[:28]
}

// natTable is table nat of one tool: the names of its chains, and the rules of each
// as they follow "-A CHAIN".
type natTable struct {
	Tool
	chains []string
	rules  map[string][]string
}

// tell adds the containers that have a chain.
func (t natTable) tell(all *Found) {
	of := func(chain string) *Served {
		s := all.programmed(backend.Iptables, func(s *Served) bool { return s.chain == chain })
		s.chain = chain
		return s
	}
	for _, chain := range t.chains {
		if !strings.HasPrefix(chain, ownerPrefix) {
			continue
		}
		s := of(chain)
		for _, spec := range t.rules[chain] {
			if r := iptables.ParseFields(spec); r.To.IsValid() {
				s.add(hostport.Mapping{Protocol: r.Protocol, HostIP: r.Destination.Addr(), HostPort: r.Port}, r.To)
			}
		}
	}
	for _, spec := range t.rules[dnatChain] {
		r := iptables.ParseFields(spec)
		// A comment that was truncated, because it was longer than 255 bytes, names
		// no container.
		named, _ := strings.CutPrefix(r.Comment, `dnat name: "`)
		network, id, _ := strings.Cut(named, `" id: "`)
		if id, whole := strings.CutSuffix(id, `"`); whole && r.Target == chainName(network, id) {
			s := of(r.Target)
			s.Network, s.ContainerID = network, id
		}
	}
}

// removal returns the text for iptables-restore --noflush that deletes the
// chains of the given containers, and the shared chains if they are no longer
// used. It returns "" if there is nothing to delete.
func (t natTable) removal(gone map[string]bool) string {
	var doomed, shared []string
	target := func(spec string) string {
		if !strings.Contains(spec, "CNI-") { // like most rules of a node: another program's
			return ""
		}
		return iptables.ParseFields(spec).Target
	}
	needed := false
	for _, chain := range t.chains {
		switch {
		case gone[chain]:
			doomed = append(doomed, chain)
		case slices.Contains(sharedChains(), chain):
			shared = append(shared, chain)
		case slices.Contains([]string{"PREROUTING", "OUTPUT", "POSTROUTING"}, chain):
			// Jumps from here to shared chains are deleted with these chains.
		case strings.HasPrefix(chain, ownerPrefix),
			slices.ContainsFunc(t.rules[chain], func(spec string) bool { return slices.Contains(sharedChains(), target(spec)) }):
			needed = true // by another container, or by an operator's rules that use portmap's SETMARK chain
		}
	}
	if !needed {
		doomed = append(doomed, shared...)
	}
	if len(doomed) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("*nat\n")
	for _, chain := range t.chains {
		for _, spec := range t.rules[chain] {
			if !slices.Contains(doomed, chain) && slices.Contains(doomed, target(spec)) {
				fmt.Fprintf(&b, "-D %s %s\n", chain, spec)
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
