package explain

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// parseMark parses VALUE[/MASK].
func parseMark(s string) (value, mask uint32) {
	v, m, masked := strings.Cut(s, "/")
	n, _ := strconv.ParseUint(v, 0, 32)
	mask = 0xffffffff
	if masked {
		b, _ := strconv.ParseUint(m, 0, 32)
		mask = uint32(b)
	}
	return uint32(n), mask
}

func matchMark(have uint32, s string) bool {
	value, mask := parseMark(s)
	return have&mask == value
}

// iptTarget applies a rule's target. With inDoubt it does not change the
// packet.
func iptTarget(p *Packet, option string, args []string, inDoubt bool) effect {
	if len(args) == 0 {
		return effect{}
	}
	target, args := args[0], args[1:]
	if option == "-g" {
		return effect{action: actionGoto, chain: target}
	}
	value := func(name string) string {
		if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
			return args[i+1]
		}
		return ""
	}
	switch target {
	case "ACCEPT":
		return effect{action: actionAccept}
	case "DROP":
		return effect{action: actionDrop}
	case "REJECT", "SYNPROXY":
		return effect{action: actionReject}
	case "RETURN":
		return effect{action: actionReturn}
	case "QUEUE", "NFQUEUE":
		return effect{action: actionQueue}
	case "DNAT":
		return effect{action: actionDNAT, to: parseTo(value("--to-destination"))}
	case "REDIRECT":
		return effect{action: actionRedirect, to: parseTo(":" + value("--to-ports"))}
	case "SNAT":
		return effect{action: actionSNAT, to: parseTo(value("--to-source"))}
	case "MASQUERADE":
		return effect{action: actionMasquerade}
	case "TPROXY":
		return effect{action: actionRedirect, to: parseTo(":" + value("--on-port"))}
	case "MARK", "CONNMARK":
		if !inDoubt {
			setMark(p, target, args)
		}
		return effect{}
	case "CT", "NOTRACK":
		if !inDoubt && (target == "NOTRACK" || slices.Contains(args, "--notrack")) && p.State == StateNone {
			p.State = StateUntracked
		}
		return effect{}
	case "LOG", "NFLOG", "TRACE", "CHECKSUM", "TCPMSS", "TEE", "SET", "CLASSIFY", "DSCP", "TTL", "HL", "AUDIT", "SECMARK", "CONNSECMARK":
		return effect{}
	default:
		return effect{action: actionJump, chain: target}
	}
}

// setMark applies the targets MARK and CONNMARK.
func setMark(p *Packet, target string, args []string) {
	to := &p.Mark
	if target == "CONNMARK" {
		to = &p.ctMark
	}
	for i, a := range args {
		value, mask := uint32(0), uint32(0xffffffff)
		if i+1 < len(args) {
			value, mask = parseMark(args[i+1])
		}
		switch a {
		case "--set-xmark":
			*to = *to&^mask ^ value
		case "--set-mark":
			*to = *to&^(mask|value) | value
		case "--or-mark":
			*to |= value
		case "--and-mark":
			*to &= value
		case "--xor-mark":
			*to ^= value
		case "--restore-mark":
			p.Mark = p.ctMark
		case "--save-mark":
			p.ctMark = p.Mark
		}
	}
}

// parseTo parses ADDRESS, ADDRESS:PORT, [ADDRESS]:PORT or :PORT; of a range it
// returns the first.
func parseTo(s string) netip.AddrPort {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap
	}
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && strings.Count(s, ":") == 1 {
		host, port = s[:i], s[i+1:]
	}
	host, _, _ = strings.Cut(strings.Trim(host, "[]"), "-")
	port, _, _ = strings.Cut(port, "-")
	addr, err := netip.ParseAddr(host)
	if err != nil {
		addr = netip.Addr{}
	}
	n, _ := strconv.ParseUint(port, 10, 16)
	if !addr.IsValid() && n != 0 {
		addr = netip.IPv4Unspecified()
	}
	return netip.AddrPortFrom(addr, uint16(n))
}
