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

// Validate refuses what only the iptables backend has, and conditions of other
// forms than this backend translates: the error quotes the text and names the
// key. The mark bit is not looked at: it has a default, and is not used.
func (b *Backend) Validate(o hostport.Options) error {
	if o.ExternalSetMarkChain != "" {
		return errors.New("externalSetMarkChain: the nftables backend masquerades without marks; remove the key, or set backend to iptables")
	}
	for _, f := range hostport.Families() {
		if _, err := parseConditions(o.Conditions(f), f); err != nil {
			return fmt.Errorf("conditionsV%d: %w", f, err)
		}
	}
	return nil
}

// parseConditions reads an attachment's conditions for packets of family f. The texts
// follow each other, as portmap hands them to nft: each may be one match, or several,
// or a word of one. The error quotes them.
//
//	(ip | ip6) (saddr | daddr) [op] (ADDRESS | CIDR | { CIDR, ... })
//	[meta] iifname [op] (NAME | "NAME" | { NAME, ... })
//	[meta] mark [(& | and) MASK] [op] (VALUE | VALUE/MASK | { VALUE, ... })
//
// op is one of == eq != ne. All matches must be met.
func parseConditions(texts []string, f hostport.Family) (out []condition, err error) {
	signs := strings.NewReplacer("{", " { ", "}", " } ", ",", " , ", "&", " & ", "==", " == ", "!=", " != ")
	text := strings.Join(texts, " ")
	p := parser(strings.FieldsFunc(signs.Replace(text), func(r rune) bool { return r == ' ' || r == '\t' }))
	for more := len(texts) > 0; more; more = len(p) > 0 {
		c, err := p.match(f)
		if err == nil && len(c.text) > maxComment {
			err = fmt.Errorf("a match of more than %d characters: name a wider network", maxComment)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot use %q: %w", text, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// parser is the words and signs that are left to read.
type parser []string

// next takes the next token, "" at the end.
func (p *parser) next() (token string) {
	if len(*p) > 0 {
		token, *p = (*p)[0], (*p)[1:]
	}
	return token
}

// take drops the tokens of a text, if they are next.
func (p *parser) take(text string) bool {
	words := strings.Fields(text)
	found := len(*p) >= len(words) && slices.Equal((*p)[:len(words)], words)
	if found {
		*p = (*p)[len(words):]
	}
	return found
}

// match reads the name of a match, an operator, and one value or several in braces.
func (p *parser) match(f hostport.Family) (c condition, err error) {
	ip := map[hostport.Family]string{hostport.IPv4: "ip", hostport.IPv6: "ip6"}[f]
	equals := ""
	var parse func(string) (string, value, error)
	switch {
	case p.take(ip + " saddr"):
		c.text, parse = ip+" saddr ", func(t string) (string, value, error) { return parseNet(t, f, true) }
	case p.take(ip + " daddr"):
		c.text, parse = ip+" daddr ", func(t string) (string, value, error) { return parseNet(t, f, false) }
	case p.take("iifname"), p.take("meta iifname"):
		c.text, parse = "iifname ", parseInterface
	case p.take("mark"), p.take("meta mark"):
		bits, err := p.mask()
		if err != nil {
			return c, err
		}
		c.text, parse = "meta mark ", func(t string) (string, value, error) { return parseMark(t, bits) }
		if bits != ^uint32(0) {
			c.text, equals = fmt.Sprintf("meta mark & %#x ", bits), "== "
		}
	default:
		text := strings.Join((*p)[:min(2, len(*p))], " ")
		return c, fmt.Errorf("unknown match %q of %s (known: %s saddr, %s daddr, iifname, meta mark)", text, f, ip, ip)
	}
	if c.negated = p.take("!=") || p.take("ne"); c.negated {
		equals = "!= "
	} else {
		_ = p.take("==") || p.take("eq")
	}
	var texts []string
	braces := p.take("{")
	for more := true; more; more = braces && !p.take("}") {
		if len(texts) > 0 && !p.take(",") {
			return c, fmt.Errorf("%q where , or } should be", p.next())
		}
		text, v, err := parse(p.next())
		if err != nil {
			return c, err
		}
		texts, c.values = append(texts, text), append(c.values, v)
	}
	c.text += equals
	if len(texts) == 1 {
		c.text += texts[0]
	} else {
		c.text += "{ " + strings.Join(texts, ", ") + " }"
	}
	return c, nil
}

func parseNet(t string, f hostport.Family, source bool) (string, value, error) {
	n, err := netip.ParsePrefix(t)
	if a, notAddr := netip.ParseAddr(t); notAddr == nil && a.Zone() == "" {
		n, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil:
		return "", value{}, fmt.Errorf("%q is not an address or a network", t)
	case n.Addr().Is4() != (f == hostport.IPv4) || n.Addr().Is4In6():
		return "", value{}, fmt.Errorf("%s is not of %s", n, f)
	case n.Bits() == 0:
		return "", value{}, fmt.Errorf("%s is every address: leave the match out", n)
	}
	return n.Masked().String(), inNet(n, source), nil
}

// parseInterface takes a name, quoted or not, that may end in "*". It is narrower
// than the kernel, which takes nearly any byte.
func parseInterface(t string) (string, value, error) {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:@-"
	name, opened := strings.CutPrefix(t, `"`)
	name, closed := strings.CutSuffix(name, `"`)
	base := strings.TrimSuffix(name, "*")
	if opened != closed || base == "" || len(base) > 15 || strings.Trim(base, letters) != "" {
		return "", value{}, fmt.Errorf("%q is not an interface name", t)
	}
	return name, fromInterface(name), nil
}

// mask reads the mask of a mark, which stands before the operator or behind the value.
func (p *parser) mask() (uint32, error) {
	if p.take("&") || p.take("and") {
		return parseNumber(p.next())
	}
	for i, t := range (*p)[:min(2, len(*p))] {
		if number, bits, found := strings.Cut(t, "/"); found {
			(*p)[i] = number
			return parseNumber(bits)
		}
	}
	return ^uint32(0), nil
}

func parseMark(t string, bits uint32) (string, value, error) {
	mark, err := parseNumber(t)
	if err != nil {
		return "", value{}, err
	}
	if bits == 0 || mark&^bits != 0 {
		return "", value{}, fmt.Errorf("no mark is %#x under the mask %#x", mark, bits)
	}
	v := value{loadMeta(expr.MetaKeyMARK), binaryutil.NativeEndian.PutUint32(mark)}
	if bits != ^uint32(0) {
		v.load = append(v.load, mask(binaryutil.NativeEndian.PutUint32(bits)))
	}
	return fmt.Sprintf("%#x", mark), v, nil
}

func parseNumber(t string) (uint32, error) {
	n, err := strconv.ParseUint(t, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a packet mark", t)
	}
	return uint32(n), nil
}
