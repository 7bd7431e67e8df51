package nftables

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
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
	// values are those of which the packet must have one, or none if it is negated.
	negated bool
	values  []value
}

// conditionChain returns the chain that turns away what does not meet an
// attachment's conditions of one family, before its mappings are looked up. Only
// packets to ports that the attachment holds pass through it. Other conditions of
// the same attachment have another chain, so that an element that leads to a chain
// changes with it.
//
// Conditions that cannot be read, by an older version perhaps, let nothing pass:
// better no mapping than one that is open to all.
func conditionChain(owner hostport.Key, texts []string, f hostport.Family) chain {
	h := fnv.New64a()
	h.Write([]byte(owner.String()))
	for _, text := range texts {
		h.Write([]byte("\x00" + text))
	}
	c := chain{name: fmt.Sprintf("cond%d_%016x", f, h.Sum64()), of: owner}
	conditions, err := parseConditions(texts, f)
	if err != nil {
		c.rules = []rule{newRule(refuse())}
	}
	for _, condition := range conditions {
		c.rules = append(c.rules, condition.rules()...)
	}
	return c
}

func refuse() []expr.Any { return verdict(expr.VerdictGoto, chainUnmapped) }

// rules refuse the packets that do not meet the condition: one rule with all
// values if it must be any of them, a rule for each if it must be none.
func (c condition) rules() []rule {
	var out []rule
	var all []expr.Any
	for _, v := range c.values {
		if c.negated {
			out = append(out, rule{slices.Concat(v.match(expr.CmpOpEq), refuse()), c.text})
		} else {
			all = append(all, v.match(expr.CmpOpNeq)...)
		}
	}
	if !c.negated {
		out = []rule{{append(all, refuse()...), c.text}}
	}
	return out
}

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
	signs := strings.NewReplacer("{", " { ", "}", " } ", ",", " , ", "&", " & ", "==", " == ", "!=", " != ")
	p := &parser{family: f}
	p.tokens = strings.FieldsFunc(signs.Replace(text), func(r rune) bool { return r == ' ' || r == '\t' })
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

type parser struct {
	tokens []string // words and signs
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
	found := len(p.tokens) > 0 && slices.Contains(words, p.tokens[0])
	if found {
		p.next()
	}
	return found
}

func (p *parser) condition() (condition, error) {
	t := p.next()
	if t == "meta" {
		t += " " + p.next()
	}
	switch t {
	case "iifname", "meta iifname":
		return p.list("iifname", parseInterface)
	case "mark", "meta mark":
		return p.mark()
	case "ip", "ip6":
		side := p.next()
		if side != "saddr" && side != "daddr" {
			return condition{}, unknownMatch(t + " " + side)
		}
		if (t == "ip") != (p.family == hostport.IPv4) {
			return condition{}, fmt.Errorf("%s does not match packets of %s", t, p.family)
		}
		return p.list(t+" "+side, func(t string) (string, value, error) {
			n, err := parseNet(t, p.family)
			if err != nil {
				return "", value{}, err
			}
			return n.String(), inNet(n, side == "saddr"), nil
		})
	default:
		return condition{}, unknownMatch(t)
	}
}

func unknownMatch(text string) error {
	return fmt.Errorf("unknown match %q (known: ip saddr, ip daddr, ip6 saddr, ip6 daddr, iifname, meta mark)", text)
}

func parseNet(t string, f hostport.Family) (netip.Prefix, error) {
	n, err := netip.ParsePrefix(t)
	if a, notAddr := netip.ParseAddr(t); notAddr == nil && a.Zone() == "" {
		n, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil:
		return n, fmt.Errorf("%q is not an address or a network", t)
	case n.Addr().Is4() != (f == hostport.IPv4) || n.Addr().Is4In6():
		return n, fmt.Errorf("%s is not of %s", n, f)
	case n.Bits() == 0:
		return n, fmt.Errorf("%s is every address: leave the match out", n)
	}
	return n.Masked(), nil
}

// parseInterface takes a name, quoted or not, that may end in "*". It is narrower
// than the kernel, which takes nearly any byte.
func parseInterface(t string) (string, value, error) {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:@-"
	name := t
	if inside, quoted := strings.CutPrefix(t, `"`); quoted && strings.HasSuffix(inside, `"`) {
		name = strings.TrimSuffix(inside, `"`)
	}
	base := strings.TrimSuffix(name, "*")
	if base == "" || len(base) > 15 || strings.Trim(base, letters) != "" {
		return "", value{}, fmt.Errorf("%q is not an interface name", name)
	}
	return name, fromInterface(name), nil
}

func (p *parser) mark() (condition, error) {
	maskText := "0xffffffff"
	masked := p.take("&", "and")
	if masked {
		maskText = p.next()
	}
	c := condition{negated: p.negated()}
	number, slashMask, slash := strings.Cut(p.next(), "/")
	if slash && masked {
		return c, errors.New("two masks on one mark")
	} else if slash {
		maskText = slashMask
	}
	bits, err := parseMark(maskText)
	if err != nil {
		return c, err
	}
	mark, err := parseMark(number)
	if err != nil {
		return c, err
	}
	if bits == 0 || mark&^bits != 0 {
		return c, fmt.Errorf("no mark is %#x under the mask %#x", mark, bits)
	}
	v := value{loadMeta(expr.MetaKeyMARK), binaryutil.NativeEndian.PutUint32(mark)}
	field, op := "meta mark", ""
	if bits != ^uint32(0) {
		v.load = append(v.load, mask(binaryutil.NativeEndian.PutUint32(bits)))
		field, op = fmt.Sprintf("meta mark & %#x", bits), "== "
	}
	if c.negated {
		op = "!= "
	}
	c.text, c.values = fmt.Sprintf("%s %s%#x", field, op, mark), []value{v}
	return c, nil
}

func parseMark(t string) (uint32, error) {
	n, err := strconv.ParseUint(t, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a packet mark", t)
	}
	return uint32(n), nil
}

// negated reads an operator, which may be left out.
func (p *parser) negated() bool {
	if p.take("!=", "ne") {
		return true
	}
	p.take("==", "eq")
	return false
}

// list reads what follows the name of a match: one value, or several in braces.
func (p *parser) list(match string, parse func(string) (string, value, error)) (condition, error) {
	c := condition{negated: p.negated()}
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
	c.text = match + " "
	if c.negated {
		c.text += "!= "
	}
	if len(texts) == 1 {
		c.text += texts[0]
	} else {
		c.text += "{ " + strings.Join(texts, ", ") + " }"
	}
	return c, nil
}
