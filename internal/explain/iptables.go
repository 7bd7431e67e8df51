package explain

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostport-cni/hostport/internal/iptables"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// iptPriorities holds the priorities of the built-in chains of iptables, by
// table.
var iptPriorities = map[string]map[string]int{ //nolint:gochecknoglobals // a constant table
	"raw":      {hookPrerouting: -300, hookOutput: -300},
	"mangle":   {hookPrerouting: -150, hookInput: -150, hookForward: -150, hookOutput: -150, hookPostrouting: -150},
	"nat":      {hookPrerouting: -100, hookInput: 100, hookOutput: -100, hookPostrouting: 100},
	"filter":   {hookInput: 0, hookForward: 0, hookOutput: 0},
	"security": {hookInput: 50, hookForward: 50, hookOutput: 50},
}

// parseSave reads the output of iptables-save, with counters or without.
func parseSave(origin string, f hostport.Family, out string) ruleset {
	family := "ip"
	if f == hostport.IPv6 {
		family = "ip6"
	}
	var rs ruleset
	var t *table
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "*"):
			t = &table{origin: origin, family: family, name: line[1:], chains: map[string]*chain{}}
			rs = append(rs, t)
		case t == nil:
		case strings.HasPrefix(line, ":"):
			name, rest, _ := strings.Cut(line[1:], " ")
			t.chains[name] = newIPTChain(t, name, rest)
		case line == "COMMIT":
			t = nil
		default:
			packets, rule := cutCounters(line)
			name, spec, _ := strings.Cut(strings.TrimPrefix(rule, "-A "), " ")
			if c := t.chains[name]; c != nil && strings.HasPrefix(rule, "-A ") {
				c.rules = append(c.rules, &iptRule{spec: spec, packets: packets})
			}
		}
	}
	return rs
}

// cutCounters cuts "[PACKETS:BYTES] " from a rule. A rule of table nat counts
// only the first packet of a connection.
func cutCounters(line string) (packets *uint64, rule string) {
	counters, rule, ok := strings.Cut(line, "] ")
	if !ok || !strings.HasPrefix(counters, "[") {
		return nil, line
	}
	number, _, _ := strings.Cut(counters[1:], ":")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return nil, line
	}
	return &n, rule
}

func newIPTChain(t *table, name, rest string) *chain {
	c := &chain{table: t, name: name}
	if !strings.HasPrefix(rest, "-") {
		hook := strings.ToLower(name)
		if priority, ok := iptPriorities[t.name][hook]; ok {
			c.hook, c.priority, c.kind, c.policy = hook, priority, "filter", actionAccept
			if t.name == "nat" {
				c.kind = "nat"
			}
			if strings.HasPrefix(rest, "DROP") {
				c.policy = actionDrop
			}
		}
	}
	return c
}

// iptRule is a rule as iptables-save prints it, without the chain. It is parsed
// on first use: a node with 5,000 Services has 40,000 of them.
type iptRule struct {
	spec    string
	packets *uint64 // the rule's counter, nil if the listing had none

	read   bool
	tests  []iptTest
	target []string // -j or -g with its arguments; nil without a target
}

// iptTest is an option that a packet has to meet.
type iptTest struct {
	not    bool
	option string
	values []string
	nets   []netip.Prefix // of -s and -d
}

func (r *iptRule) text() string { return r.spec }

// truth is the result of a match: no, yes, or uncertain, with a reason.
type truth struct {
	yes   bool
	doubt string
}

func is(yes bool) truth           { return truth{yes: yes} }
func unknown(reason string) truth { return truth{doubt: reason} }

// parse reads the rule's options from left to right, once.
func (r *iptRule) parse() {
	if r.read {
		return
	}
	r.read = true
	args := iptables.Split(r.spec) // the tool closes its quotes
	module := ""
	for i := 0; i < len(args); {
		t := iptTest{not: args[i] == "!"}
		if t.not {
			i++
		}
		if i >= len(args) {
			return
		}
		t.option = args[i]
		if t.option == "-j" || t.option == "-g" {
			r.target = args[i:]
			return
		}
		t.values = optionValues(args[i+1:])
		i += 1 + len(t.values)
		switch t.option {
		case "-m":
			// The match "socket" may have no option.
			if module = strings.Join(t.values, " "); module != "socket" {
				continue
			}
			t.option = "-m socket"
		case "--comment", "--update-counters", "--nfacct-name", "--return-nomatch":
			continue
		case "--mark":
			if module == "connmark" {
				t.option = "connmark --mark"
			}
		case "-s", "-d":
			t.nets = parsePrefixes(strings.Join(t.values, ","))
		}
		r.tests = append(r.tests, t)
	}
}

// host returns the destination of a rule that matches exactly one address.
func (r *iptRule) host() netip.Addr {
	r.parse()
	for _, t := range r.tests {
		if t.option == "-d" && !t.not && len(t.nets) == 1 && t.nets[0].IsSingleIP() {
			return t.nets[0].Addr()
		}
	}
	return netip.Addr{}
}

func (r *iptRule) apply(p *Packet) effect {
	r.parse()
	doubt := ""
	for i := range r.tests {
		switch t := r.tests[i].match(p); {
		case t.doubt != "":
			doubt = t.doubt
		case t.yes == r.tests[i].not:
			return effect{}
		}
	}
	if r.target == nil {
		return effect{}
	}
	e := iptTarget(p, r.target[0], r.target[1:], doubt != "")
	e.doubt, e.packets = doubt, r.packets
	return e
}

// optionValues returns the arguments up to the next option.
func optionValues(args []string) []string {
	for i, a := range args {
		if a == "!" || len(a) > 1 && a[0] == '-' && (a[1] < '0' || a[1] > '9') {
			return args[:i]
		}
	}
	return args
}

// match evaluates the option.
func (t *iptTest) match(p *Packet) truth {
	// Most rules of a long ruleset have another destination.
	switch t.option {
	case "-s":
		return within(p.Source.Addr(), t.nets)
	case "-d":
		return within(p.Destination.Addr(), t.nets)
	}
	option, value := t.option, strings.Join(t.values, " ")
	switch option {
	case "-i":
		return is(matchIf(p.In, value))
	case "-o":
		return is(matchIf(p.Out, value))
	case "-p":
		return is(value == string(p.Protocol) || value == strconv.Itoa(int(p.Protocol.Number())) || value == "all")
	case "--dport", "--dports":
		return is(inPorts(p.Destination.Port(), value))
	case "--sport", "--sports":
		return sourcePort(p, value)
	case "--ports":
		return is(inPorts(p.Destination.Port(), value) || inPorts(p.Source.Port(), value))
	case "--tcp-flags":
		return tcpFlags(p, t.values)
	case "--syn":
		return is(p.tcpFlags() == 0x02)
	case "--mark":
		return is(matchMark(p.Mark, value))
	case "connmark --mark":
		return is(matchMark(p.ctMark, value))
	case "--ctstate", "--state", "--ctstatus", "--ctorigdst", "--ctorigsrc", "--ctorigdstport", "--ctproto", "--ctdir":
		return connection(p, option, value)
	case "--dst-type":
		return addressType(p, p.Destination.Addr(), value)
	case "--src-type":
		return addressType(p, p.Source.Addr(), value)
	case "--limit-iface-in":
		l := p.node.holder(p.Destination.Addr())
		return is(l != nil && l.Name == p.In)
	case "--src-range", "--dst-range":
		addr := p.Source.Addr()
		if option == "--dst-range" {
			addr = p.Destination.Addr()
		}
		return is(inRange(addr, value))
	case "--pkt-type":
		return is(value == "unicast")
	case "--physdev-is-bridged":
		return is(false)
	case "--match-set":
		return p.node.inSet(p, t.values)
	default:
		return unknown("this tool does not evaluate " + option)
	}
}

func sourcePort(p *Packet, value string) truth {
	if value == "1024:65535" || value == "0:65535" {
		return is(true)
	}
	if p.State == StateEstablished {
		return is(inPorts(p.Source.Port(), value))
	}
	return unknown("the client's port is not known")
}

func connection(p *Packet, option, value string) truth {
	if p.State == StateNone {
		return is(false)
	}
	words := strings.Split(value, ",")
	switch option {
	case "--ctstate", "--state":
		return is(slices.Contains(words, string(p.State)) ||
			p.DNAT && slices.Contains(words, "DNAT") || p.SNAT && slices.Contains(words, "SNAT"))
	case "--ctstatus":
		return is(p.State == StateEstablished && (slices.Contains(words, "CONFIRMED") || slices.Contains(words, "SEEN_REPLY")))
	case "--ctorigdst":
		return within(p.OriginalDestination.Addr(), parsePrefixes(value))
	case "--ctorigsrc":
		return within(p.OriginalSource.Addr(), parsePrefixes(value))
	case "--ctorigdstport":
		return is(inPorts(p.OriginalDestination.Port(), value))
	case "--ctproto":
		return is(value == string(p.Protocol) || value == strconv.Itoa(int(p.Protocol.Number())))
	default: // --ctdir
		return is((p.State == StateEstablished) == (value == "REPLY"))
	}
}

func addressType(p *Packet, addr netip.Addr, value string) truth {
	for t := range strings.SplitSeq(value, ",") {
		switch t {
		case "LOCAL", "UNICAST", "BROADCAST", "MULTICAST":
			if p.node.addrType(addr) == t {
				return is(true)
			}
		default:
			return unknown("this tool does not evaluate address type " + t)
		}
	}
	return is(false)
}

func tcpFlags(p *Packet, values []string) truth {
	if len(values) != 2 || p.Protocol != hostport.TCP {
		return is(false)
	}
	bits := func(names string) (b byte) {
		for n := range strings.SplitSeq(names, ",") {
			b |= map[string]byte{"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ALL": 63}[n]
		}
		return b
	}
	return is(p.tcpFlags()&bits(values[0]) == bits(values[1]))
}

// within reports whether an address is in one of the networks. nets is empty if
// a mask is not a prefix, or could not be parsed.
func within(addr netip.Addr, nets []netip.Prefix) truth {
	if len(nets) == 0 {
		return unknown("this tool does not evaluate its mask")
	}
	return is(slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(addr) }))
}

// parsePrefixes parses comma-separated networks, and addresses as networks of one.
func parsePrefixes(value string) (out []netip.Prefix) {
	for v := range strings.SplitSeq(value, ",") {
		if a, err := netip.ParseAddr(v); err == nil {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		} else if p, err := netip.ParsePrefix(v); err == nil {
			out = append(out, p)
		}
	}
	return out
}

func inRange(addr netip.Addr, value string) bool {
	from, to, _ := strings.Cut(value, "-")
	low, err1 := netip.ParseAddr(from)
	high, err2 := netip.ParseAddr(to)
	return err1 == nil && err2 == nil && low.Compare(addr) <= 0 && addr.Compare(high) <= 0
}

// matchIf compares an interface name; a trailing "+" matches any suffix.
func matchIf(name, pattern string) bool {
	if prefix, wild := strings.CutSuffix(pattern, "+"); wild {
		return strings.HasPrefix(name, prefix)
	}
	return name == pattern
}

func inPorts(port uint16, value string) bool {
	for v := range strings.SplitSeq(value, ",") {
		from, to, isRange := strings.Cut(v, ":")
		low, _ := strconv.Atoi(from)
		high := low
		if isRange {
			if high, _ = strconv.Atoi(to); to == "" {
				high = 65535
			}
		}
		if low <= int(port) && int(port) <= high {
			return true
		}
	}
	return false
}
