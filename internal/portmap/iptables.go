package portmap

import (
	"crypto/sha512"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mattn/go-shellwords"

	"github.com/hostport-cni/hostport/internal/backend"
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

// natTable is table nat as iptables-save prints it.
type natTable struct {
	chains []string
	rules  []natRule
}

// natRule is one rule, as text for a deletion and as words to be read.
type natRule struct {
	chain string
	spec  string
	words []string
}

// parseNat reads the output of iptables-save. Rules in other tables and lines
// that it does not know are skipped; what cannot be split into words is another
// program's.
func parseNat(save string) natTable {
	var t natTable
	inNat := false
	for line := range strings.Lines(save) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			inNat = line == "*nat"
		case !inNat:
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			t.chains = append(t.chains, name)
		case strings.HasPrefix(line, "-A "):
			chain, spec, _ := strings.Cut(line[len("-A "):], " ")
			words, err := shellwords.Parse(spec)
			if err != nil {
				words = nil
			}
			t.rules = append(t.rules, natRule{chain: chain, spec: spec, words: words})
		}
	}
	return t
}

// in returns the rules of a chain.
func (t natTable) in(chain string) []natRule {
	var out []natRule
	for _, r := range t.rules {
		if r.chain == chain {
			out = append(out, r)
		}
	}
	return out
}

// owners returns the containers that have a chain, in the order of the chains.
func (t natTable) owners(f hostport.Family) []*owner {
	var out []*owner
	bit := t.markBit()
	for _, chain := range t.chains {
		if !strings.HasPrefix(chain, ownerPrefix) {
			continue
		}
		o := &owner{chain: chain, backend: backend.Iptables, options: hostport.Options{MarkMasqBit: bit}}
		for _, r := range t.in(dnatChain) {
			if x := parseMatch(r.words); x.target == chain {
				o.enter(f, x)
			}
		}
		for _, r := range t.in(chain) {
			o.read(parseMatch(r.words))
		}
		out = append(out, o)
	}
	return out
}

// markBit returns the bit that portmap's shared chain sets.
func (t natTable) markBit() int {
	for _, r := range t.in(setMarkChain) {
		value, _, _ := strings.Cut(parseMatch(r.words).mark, "/")
		mark, err := strconv.ParseUint(value, 0, 32)
		for bit := range 32 {
			if err == nil && mark == 1<<bit {
				return bit
			}
		}
	}
	return netconf.DefaultMarkMasqBit
}

// enter reads a jump to the owner's chain.
func (o *owner) enter(f hostport.Family, x match) {
	// A comment that was cut, because it was longer than 255 bytes, names nobody.
	named, _ := strings.CutPrefix(x.comment, `dnat name: "`)
	network, id, _ := strings.Cut(named, `" id: "`)
	if id, whole := strings.CutSuffix(id, `"`); whole && chainName(network, id) == o.chain {
		o.network, o.containerID = network, id
	}
	conditions := x.other
	if x.destination.IsValid() {
		conditions = append([]string{"-d", x.destination.String()}, conditions...)
	}
	if x.source.IsValid() {
		conditions = append([]string{"-s", x.source.String()}, conditions...)
	}
	if f == hostport.IPv4 {
		o.options.ConditionsV4 = conditions
	} else {
		o.options.ConditionsV6 = conditions
	}
}

// read reads a rule of the owner's chain: it rewrites the destination, or jumps
// to the chain that marks for masquerading.
func (o *owner) read(x match) {
	switch {
	case x.target == "DNAT" && x.to.IsValid():
		o.forwards = append(o.forwards, hostport.Forward{
			Protocol: x.protocol, HostIP: x.destination.Addr(), HostPort: x.port, To: x.to,
		})
	case x.target != "" && x.target != "DNAT":
		o.options.SNAT = true
		if x.target != setMarkChain {
			o.options.ExternalSetMarkChain = x.target
			o.options.MarkMasqBit = netconf.DefaultMarkMasqBit
		}
		if x.source.IsValid() {
			o.subnets = append(o.subnets, x.source)
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
	for _, r := range t.rules {
		if slices.Contains(doomed, parseMatch(r.words).target) && !slices.Contains(doomed, r.chain) {
			fmt.Fprintf(&b, "-D %s %s\n", r.chain, r.spec)
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
	return slices.ContainsFunc(t.rules, func(r natRule) bool {
		return slices.Contains(sharedChains(), parseMatch(r.words).target) && !slices.Contains(own, r.chain)
	})
}

// match is a rule of portmap's taken apart.
type match struct {
	source, destination netip.Prefix
	protocol            hostport.Protocol
	port                uint16
	comment             string
	mark                string
	target              string
	to                  netip.AddrPort
	// other are the words of matches that portmap does not make itself.
	other []string
}

func parseMatch(words []string) match {
	var x match
	for i := 0; i < len(words); i++ {
		if words[i] != "!" && i+1 < len(words) && x.take(words[i], words[i+1]) {
			i++
			continue
		}
		if words[i] == "!" && i+2 < len(words) { // a negation is no match of portmap's
			x.other = append(x.other, words[i:i+2]...)
			i += 2
		}
		x.other = append(x.other, words[i])
	}
	return x
}

// take reads an option and its value, if portmap writes it.
func (x *match) take(option, value string) bool {
	var err error
	switch option {
	case "-s":
		x.source, err = netip.ParsePrefix(value)
	case "-d":
		x.destination, err = netip.ParsePrefix(value)
	case "-p":
		x.protocol, err = hostport.ParseProtocol(value)
	case "-m":
		return slices.Contains([]string{"comment", "multiport", "tcp", "udp", "sctp"}, value)
	case "--dport":
		var port uint64
		port, err = strconv.ParseUint(value, 10, 16)
		x.port = uint16(port)
	case "--dports":
	case "--comment":
		x.comment = value
	case "--set-xmark":
		x.mark = value
	case "-j":
		x.target = value
	case "--to-destination":
		x.to, err = netip.ParseAddrPort(value)
	default:
		return false
	}
	return err == nil
}
