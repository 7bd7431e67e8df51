package nftables

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// condition is one further match that a packet must meet to be mapped, of the
// few forms that make sense here. What portmap hands to nft as it is, is
// translated, so that no text of a configuration can become another rule.
type condition struct {
	field   field
	negated bool
	nets    []netip.Prefix // of saddr and daddr: any of them
	names   []string       // of iifname: any of them; a trailing * is a wildcard
	value   uint32         // of mark
	mask    uint32
}

type field int

const (
	fieldSource field = iota
	fieldDestination
	fieldInterface
	fieldMark
)

const knownMatches = "ip saddr, ip daddr, ip6 saddr, ip6 daddr, iifname, meta mark"

// parseConditions reads an attachment's conditions for packets of family f.
// They are whole matches, one or more to a text, or as portmap takes them, one
// match in a list of words: ["ip", "saddr", "192.0.2.1"]. The error quotes the
// text that cannot be used.
func parseConditions(texts []string, f hostport.Family) ([]condition, error) {
	var out []condition
	for i, text := range texts {
		cs, err := parseMatches(text, f)
		if err != nil && i == 0 && len(texts) > 1 {
			text = strings.Join(texts, " ")
			if out, err = parseMatches(text, f); err == nil {
				return out, nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("cannot use %q: %w", text, err)
		}
		out = append(out, cs...)
	}
	return out, nil
}

// parseMatches reads the matches of one string:
//
//	(ip | ip6) (saddr | daddr) [op] (ADDRESS | CIDR | { CIDR, ... })
//	[meta] iifname [op] (NAME | "NAME" | { NAME, ... })
//	[meta] mark [(& | and) MASK] [op] (VALUE | VALUE/MASK)
//
// op is one of == eq != ne. Several may follow each other; all must be met.
func parseMatches(text string, f hostport.Family) ([]condition, error) {
	tokens, err := scan(text)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens, family: f}
	var out []condition
	for len(p.tokens) > 0 {
		c, err := p.condition()
		if err != nil {
			return nil, err
		}
		if len(c.String()) > maxComment {
			return nil, fmt.Errorf("a match of more than %d characters: name a wider network", maxComment)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no match")
	}
	return out, nil
}

// scan splits text into words, quoted names, and the signs of the language. A
// name that was quoted keeps its leading quote, so that it cannot be a keyword.
func scan(text string) ([]string, error) {
	token := regexp.MustCompile(`^[ \t]*("[^"]*"|[!=]=|[{},&]|[^ \t{},&"!=]+)`)
	var out []string
	for text = strings.TrimRight(text, " \t"); text != ""; {
		m := token.FindStringSubmatch(text)
		if m == nil {
			return nil, fmt.Errorf("unexpected %q", strings.TrimLeft(text, " \t")[:1])
		}
		out = append(out, strings.TrimSuffix(m[1], `"`))
		text = text[len(m[0]):]
	}
	return out, nil
}

type parser struct {
	tokens []string
	family hostport.Family
}

func (p *parser) next() string {
	if len(p.tokens) == 0 {
		return ""
	}
	t := p.tokens[0]
	p.tokens = p.tokens[1:]
	return t
}

// take drops the next token if it is one of these.
func (p *parser) take(words ...string) bool {
	for _, w := range words {
		if len(p.tokens) > 0 && p.tokens[0] == w {
			p.tokens = p.tokens[1:]
			return true
		}
	}
	return false
}

func (p *parser) condition() (condition, error) {
	switch t := p.next(); t {
	case "ip", "ip6":
		if (t == "ip") != (p.family == hostport.IPv4) {
			return condition{}, fmt.Errorf("%s does not match packets of %s", t, p.family)
		}
		return p.address()
	case "meta":
		switch t := p.next(); t {
		case "iifname":
			return p.iface()
		case "mark":
			return p.mark()
		default:
			return condition{}, fmt.Errorf("unknown match %q (known: %s)", "meta "+t, knownMatches)
		}
	case "iifname":
		return p.iface()
	case "mark":
		return p.mark()
	default:
		return condition{}, fmt.Errorf("unknown match %q (known: %s)", t, knownMatches)
	}
}

func (p *parser) address() (condition, error) {
	c := condition{field: fieldSource}
	switch t := p.next(); t {
	case "saddr":
	case "daddr":
		c.field = fieldDestination
	default:
		return condition{}, fmt.Errorf("unknown match %q (known: %s)", "ip "+t, knownMatches)
	}
	c.negated = p.operator()
	err := p.list(func(t string) error {
		n, err := parseNet(t)
		if err != nil {
			return err
		}
		if hostport.FamilyOf(n.Addr()) != p.family || n.Addr().Is4In6() {
			return fmt.Errorf("%s is not of %s", n, p.family)
		}
		if n.Bits() == 0 {
			return fmt.Errorf("%s is every address: leave the match out", n)
		}
		c.nets = append(c.nets, n.Masked())
		return nil
	})
	return c, err
}

func parseNet(t string) (netip.Prefix, error) {
	if strings.Contains(t, "/") {
		n, err := netip.ParsePrefix(t)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is not a network", t)
		}
		return n, nil
	}
	a, err := netip.ParseAddr(t)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is not an address or a network", t)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func (p *parser) iface() (condition, error) {
	c := condition{field: fieldInterface, negated: p.operator()}
	err := p.list(func(t string) error {
		name := strings.TrimPrefix(t, `"`)
		if !validIfname(name) {
			return fmt.Errorf("%q is not an interface name", name)
		}
		c.names = append(c.names, name)
		return nil
	})
	return c, err
}

// validIfname is narrower than the kernel, which takes nearly any byte.
func validIfname(name string) bool {
	base := strings.TrimSuffix(name, "*")
	if base == "" || len(base) > 15 {
		return false
	}
	for _, r := range base {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("._:@-", r):
		default:
			return false
		}
	}
	return true
}

func (p *parser) mark() (condition, error) {
	c := condition{field: fieldMark, mask: ^uint32(0)}
	masked := p.take("&", "and")
	var err error
	if masked {
		if c.mask, err = parseMark(p.next()); err != nil {
			return condition{}, err
		}
	}
	c.negated = p.operator()
	value, mask, slash := strings.Cut(p.next(), "/")
	if c.value, err = parseMark(value); err != nil {
		return condition{}, err
	}
	if slash {
		if masked {
			return condition{}, errors.New("two masks on one mark")
		}
		if c.mask, err = parseMark(mask); err != nil {
			return condition{}, err
		}
	}
	if c.mask == 0 || c.value&^c.mask != 0 {
		return condition{}, fmt.Errorf("no mark is %#x under the mask %#x", c.value, c.mask)
	}
	return c, nil
}

func parseMark(t string) (uint32, error) {
	n, err := strconv.ParseUint(t, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a packet mark", t)
	}
	return uint32(n), nil
}

func (p *parser) operator() (negated bool) {
	if p.take("!=", "ne") {
		return true
	}
	p.take("==", "eq")
	return false
}

// list reads one value, or several in braces.
func (p *parser) list(add func(string) error) error {
	if !p.take("{") {
		return add(p.next())
	}
	for {
		if err := add(p.next()); err != nil {
			return err
		}
		if p.take("}") {
			return nil
		}
		if !p.take(",") {
			return fmt.Errorf("%q where , or } should be", p.next())
		}
	}
}

// String is the condition as nft would read it. It has no quotes, so that it
// can stand in a comment.
func (c condition) String() string {
	op := ""
	if c.negated {
		op = "!= "
	}
	switch c.field {
	case fieldInterface:
		return "iifname " + op + braced(c.names)
	case fieldMark:
		if c.mask == ^uint32(0) {
			return fmt.Sprintf("meta mark %s%#x", op, c.value)
		}
		if op == "" {
			op = "== "
		}
		return fmt.Sprintf("meta mark & %#x %s%#x", c.mask, op, c.value)
	}
	side := "saddr "
	if c.field == fieldDestination {
		side = "daddr "
	}
	family := "ip "
	if c.nets[0].Addr().Is6() {
		family = "ip6 "
	}
	nets := make([]string, len(c.nets))
	for i, n := range c.nets {
		nets[i] = n.String()
	}
	return family + side + op + braced(nets)
}

func braced(list []string) string {
	if len(list) == 1 {
		return list[0]
	}
	return "{ " + strings.Join(list, ", ") + " }"
}
