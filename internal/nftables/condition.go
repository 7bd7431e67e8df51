package nftables

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// condition is one further match that a packet must meet to be mapped, of the
// few forms that make sense here. What portmap hands to nft as it is, is
// translated, so that no text of a configuration can become another rule.
type condition struct {
	// text is the condition as nft would read it. It has no quotes, so that it can
	// stand in a comment.
	text string
	// values are the matches of which one must hold, or none if it is negated.
	negated bool
	values  []value
}

// value matches one value, or any other, by how it compares.
type value func(compare func([]byte) *expr.Cmp) []expr.Any

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
		if len(c.text) > maxComment {
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
	t := p.next()
	meta := t == "meta"
	if meta {
		t = p.next()
	}
	switch {
	case t == "iifname":
		return p.iface()
	case t == "mark":
		return p.mark()
	case meta:
		return condition{}, unknownMatch("meta " + t)
	case t != "ip" && t != "ip6":
		return condition{}, unknownMatch(t)
	case (t == "ip") != (p.family == hostport.IPv4):
		return condition{}, fmt.Errorf("%s does not match packets of %s", t, p.family)
	default:
		return p.address(t)
	}
}

func unknownMatch(text string) error {
	return fmt.Errorf("unknown match %q (known: ip saddr, ip daddr, ip6 saddr, ip6 daddr, iifname, meta mark)", text)
}

func (p *parser) address(protocol string) (condition, error) {
	side := p.next()
	if side != "saddr" && side != "daddr" {
		return condition{}, unknownMatch("ip " + side)
	}
	return p.list(protocol+" "+side, func(t string) (string, value, error) {
		n, err := parseNet(t)
		if err != nil {
			return "", nil, err
		}
		if hostport.FamilyOf(n.Addr()) != p.family || n.Addr().Is4In6() {
			return "", nil, fmt.Errorf("%s is not of %s", n, p.family)
		}
		if n.Bits() == 0 {
			return "", nil, fmt.Errorf("%s is every address: leave the match out", n)
		}
		return n.Masked().String(), func(compare func([]byte) *expr.Cmp) []expr.Any {
			return slices.Concat(isFamily(p.family), inNet(n, side == "saddr", compare))
		}, nil
	})
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
	return p.list("iifname", func(t string) (string, value, error) {
		name := strings.TrimPrefix(t, `"`)
		if !validIfname(name) {
			return "", nil, fmt.Errorf("%q is not an interface name", name)
		}
		return name, func(compare func([]byte) *expr.Cmp) []expr.Any {
			return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1}, compare(namePattern(name))}
		}, nil
	})
}

// namePattern returns the name with its final zero, or for a wildcard without.
func namePattern(name string) []byte {
	if base, ok := strings.CutSuffix(name, "*"); ok {
		return []byte(base)
	}
	return ifname(name)
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
	bits := ^uint32(0)
	masked := p.take("&", "and")
	var err error
	if masked {
		if bits, err = parseMark(p.next()); err != nil {
			return condition{}, err
		}
	}
	op := p.operator()
	number, slashMask, slash := strings.Cut(p.next(), "/")
	mark, err := parseMark(number)
	if err != nil {
		return condition{}, err
	}
	if slash {
		if masked {
			return condition{}, errors.New("two masks on one mark")
		}
		if bits, err = parseMark(slashMask); err != nil {
			return condition{}, err
		}
	}
	if bits == 0 || mark&^bits != 0 {
		return condition{}, fmt.Errorf("no mark is %#x under the mask %#x", mark, bits)
	}
	text := fmt.Sprintf("meta mark %s%#x", op, mark)
	match := []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1}}
	if bits != ^uint32(0) {
		text = fmt.Sprintf("meta mark & %#x %s%#x", bits, cmp.Or(op, "== "), mark)
		match = append(match, mask(binaryutil.NativeEndian.PutUint32(bits)))
	}
	return condition{text, op != "", []value{func(compare func([]byte) *expr.Cmp) []expr.Any {
		return append(slices.Clip(match), compare(binaryutil.NativeEndian.PutUint32(mark)))
	}}}, nil
}

func parseMark(t string) (uint32, error) {
	n, err := strconv.ParseUint(t, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a packet mark", t)
	}
	return uint32(n), nil
}

// operator returns "!= " for a negation, else "".
func (p *parser) operator() string {
	if p.take("!=", "ne") {
		return "!= "
	}
	p.take("==", "eq")
	return ""
}

// list reads what follows the name of a match: one value, or several in braces.
func (p *parser) list(match string, parse func(string) (string, value, error)) (condition, error) {
	op := p.operator()
	c := condition{negated: op != ""}
	var texts []string
	braces := p.take("{")
	for more := true; more; {
		text, v, err := parse(p.next())
		if err != nil {
			return condition{}, err
		}
		texts, c.values = append(texts, text), append(c.values, v)
		more = braces && !p.take("}")
		if more && !p.take(",") {
			return condition{}, fmt.Errorf("%q where , or } should be", p.next())
		}
	}
	c.text = match + " " + op + texts[0]
	if len(texts) > 1 {
		c.text = match + " " + op + "{ " + strings.Join(texts, ", ") + " }"
	}
	return c, nil
}
