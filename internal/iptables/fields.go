package iptables

import (
	"net/netip"
	"strconv"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// fields is a rule taken apart, as far as our own rules go.
type fields struct {
	source      netip.Prefix // zero if any
	destination netip.Prefix // zero if any
	protocol    hostport.Protocol
	port        uint16 // zero if not exactly one
	comment     string
	target      string
	to          string // of DNAT
	mark        string // of MARK, "0x2000/0x2000"
	// other are the words that are none of these: matches of others.
	other []string
}

// parseFields takes a rule apart. Whatever it does not know, negations
// included, it leaves in other.
func parseFields(spec string) (fields, error) {
	words, err := split(spec)
	if err != nil {
		return fields{}, err
	}
	var x fields
	for i := 0; i < len(words); i++ {
		if words[i] == "!" && i+2 < len(words) {
			x.other = append(x.other, words[i:i+3]...)
			i += 2
			continue
		}
		if i+1 < len(words) && x.take(words[i], words[i+1]) {
			i++
			continue
		}
		x.other = append(x.other, words[i])
	}
	return x, nil
}

// take reads one option and its value, if it is of ours.
func (x *fields) take(option, value string) bool {
	switch option {
	case "-s":
		return takePrefix(&x.source, value)
	case "-d":
		return takePrefix(&x.destination, value)
	case "-p":
		p, err := hostport.ParseProtocol(value)
		if err != nil || value == "" {
			return false
		}
		x.protocol = p
	case "-m":
		// These come with what they match, and only with that.
		return value == "comment" || x.protocol != "" && value == string(x.protocol)
	case "--dport":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil || n == 0 {
			return false
		}
		x.port = uint16(n)
	case "--comment":
		x.comment = value
	case "-j":
		x.target = value
	case "--to-destination":
		x.to = value
	case "--set-xmark":
		x.mark = value
	default:
		return false
	}
	return true
}

func takePrefix(p *netip.Prefix, s string) bool {
	got, err := parsePrefix(s)
	if err != nil || p.IsValid() {
		return false
	}
	*p = got
	return true
}

// parsePrefix reads a prefix, or an address for itself alone.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

// disjoint reports whether no packet to a mapped port can match both rules.
func (x fields) disjoint(o fields) bool {
	switch {
	case x.protocol != "" && o.protocol != "" && x.protocol != o.protocol:
		return true
	case x.port != 0 && o.port != 0 && x.port != o.port:
		return true
	case x.destination.IsValid() && o.destination.IsValid():
		return !x.destination.Overlaps(o.destination)
	default:
		return false
	}
}
