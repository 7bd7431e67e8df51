package iptables

import (
	"math/bits"
	"net/netip"
	"strconv"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Fields is a parsed rule, as far as our own rules and portmap's need.
type Fields struct {
	Source      netip.Prefix // zero if any
	Destination netip.Prefix // zero if any
	Protocol    hostport.Protocol
	Port        uint16 // zero if not exactly one
	Comment     string
	Target      string
	To          netip.AddrPort // of DNAT
	Mark        string         // of MARK, "0x2000/0x2000"
	Packets     uint64         // that the rule has seen, if it was listed with counters
	// Conditions are the words of its matches beyond protocol and port.
	Conditions []string
}

// ParseFields parses a rule of iptables-save without "-A CHAIN". Whatever it does
// not know, including negations, is a condition. For a rule with an unclosed quote
// it returns the zero Fields.
func ParseFields(spec string) (x Fields) {
	words := Split(spec)
	for len(words) > 0 {
		n := 1
		switch {
		case words[0] == "!" && len(words) > 2:
			n = 3
			if strings.HasPrefix(words[2], "-") { // the option has no value: "! --syn -j CHAIN"
				n = 2
			}
			x.Conditions = append(x.Conditions, words[:n]...)
		case words[0] == "-c" && len(words) > 2:
			n = 3
			x.Packets, _ = strconv.ParseUint(words[1], 10, 64)
		case len(words) > 1 && x.take(words[0], words[1]):
			n = 2
			if words[0] == "-s" || words[0] == "-d" {
				x.Conditions = append(x.Conditions, words[:n]...)
			}
		default:
			x.Conditions = append(x.Conditions, words[0])
		}
		words = words[n:]
	}
	return x
}

// take reads one option and its value, and reports whether our rules use it.
func (x *Fields) take(option, value string) bool {
	var err error
	switch option {
	case "-s":
		x.Source, err = netip.ParsePrefix(value)
	case "-d":
		x.Destination, err = netip.ParsePrefix(value)
	case "-p":
		x.Protocol, err = hostport.ParseProtocol(value)
	case "-m":
		// These go with what they match, and only with that.
		return value == "comment" || x.Protocol != "" && value == string(x.Protocol)
	case "--dport":
		var n uint64
		n, err = strconv.ParseUint(value, 10, 16)
		x.Port = uint16(n)
	case "--comment":
		x.Comment = value
	case "-j", "-g":
		x.Target = value
	case "--to-destination":
		x.To, err = netip.ParseAddrPort(value)
	case "--set-xmark":
		x.Mark = value
	default:
		return false
	}
	return err == nil
}

// markBit returns the single bit that MARK sets: 13 for "0x2000/0x2000".
func (x Fields) markBit() (int, bool) {
	value, mask, _ := strings.Cut(x.Mark, "/")
	n, err := strconv.ParseUint(value, 0, 32)
	return bits.TrailingZeros64(n), err == nil && value == mask && bits.OnesCount64(n) == 1
}

// disjoint reports whether no packet to a mapped port can match both rules.
func (x Fields) disjoint(o Fields) bool {
	return x.Protocol != "" && o.Protocol != "" && x.Protocol != o.Protocol ||
		x.Port != 0 && o.Port != 0 && x.Port != o.Port ||
		x.Destination.IsValid() && o.Destination.IsValid() && !x.Destination.Overlaps(o.Destination)
}

// quote writes s as one word for iptables-restore, whatever it holds. A line
// break cannot be part of a word there: control characters become "_".
func quote(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, s)
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plainRune(r) && !strings.ContainsRune("/@%+,=![]", r) }) {
		return s
	}
	return `"` + strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), `"`, `\"`) + `"`
}

// Split splits a line of iptables-save into words, as iptables-restore does: only
// double quotes quote, and a backslash escapes only within them. It returns nil
// if a quotation mark is not closed.
func Split(line string) []string {
	words := make([]string, 0, strings.Count(line, " ")+1)
	var word []byte
	var inWord, quoted, escaped bool
	for _, c := range []byte(line + " ") { // the space ends the last word
		switch {
		case escaped:
			word, escaped = append(word, c), false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted, inWord = !quoted, true
		case quoted || c != ' ' && c != '\t':
			word, inWord = append(word, c), true
		case inWord:
			words = append(words, string(word))
			word, inWord = word[:0], false
		}
	}
	if quoted {
		return nil
	}
	return words
}
