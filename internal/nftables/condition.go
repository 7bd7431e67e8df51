package nftables

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// conditionChain returns the chain that rejects packets which do not meet an attachment's
// conditions of one family, before its mappings are looked up. Only packets to ports of the
// attachment pass it. Different conditions have a chain of a different name, so that the
// elements that lead to it change too. Conditions that cannot be parsed, perhaps because a
// newer version wrote them, let nothing pass: no mapping is better than one that is open to
// all.
func conditionChain(owner hostport.Key, texts []string, f hostport.Family) chain {
	h := fnv.New64a()
	h.Write([]byte(owner.String() + "\x00" + strings.Join(texts, "\x00")))
	rules, err := parseConditions(texts, f)
	if err != nil {
		rules = []rule{newRule(refuse())}
	}
	return chain{name: fmt.Sprintf("cond%d_%016x", f, h.Sum64()), rules: rules, of: owner}
}

func refuse() []expr.Any { return verdict(expr.VerdictGoto, chainUnmapped) }

// Validate refuses options that only the iptables backend has, and conditions in
// forms that this backend does not translate: the error quotes the text and names
// the key. The mark bit is ignored: it has a default, and is not used.
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

// matchForm is the form of one match. The field is in one of three groups, then follow
// mask, operator and values.
var matchForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(?:(ip6? [sd]addr)|(?:meta )?(?:(iifname)|(mark)(?: (?:&|and) (\S+))?))(?: (==|eq|!=|ne))? (\{ .+? \}|\S+)(?: |$)`)
})

// parseConditions parses an attachment's conditions for packets of family f, and
// returns rules that refuse the packets that do not meet them. The texts are
// concatenated, as portmap passes them to nft: each may be one match, or several, or a
// word of one. The error quotes them. The grammar is in docs/configuration.md: these few
// forms are translated, so that no text of a configuration can become another rule.
func parseConditions(texts []string, f hostport.Family) (out []rule, err error) {
	if len(texts) == 0 {
		return nil, nil
	}
	signs := strings.NewReplacer("{", " { ", "}", " } ", ",", " , ", "&", " & ", "==", " == ", "!=", " != ")
	text, ip := strings.Join(texts, " "), map[hostport.Family]string{hostport.IPv4: "ip", hostport.IPv6: "ip6"}[f]
	rest := strings.Join(strings.FieldsFunc(signs.Replace(text), func(r rune) bool { return r == ' ' || r == '\t' }), " ")
	for more := true; more; more = rest != "" {
		part := matchForm().FindStringSubmatch(rest)
		if part == nil || part[1] != "" && !strings.HasPrefix(part[1], ip+" ") {
			return nil, fmt.Errorf("cannot use %q: unknown match, or one without a value: %q (known for %s: %[4]s saddr, %[4]s daddr, iifname, meta mark)", text, rest, f, ip)
		}
		rules, err := parseMatch(part[1]+part[2]+part[3], part[4], part[5], part[6], f)
		if err != nil {
			return nil, fmt.Errorf("cannot use %q: %w", text, err)
		}
		out, rest = append(out, rules...), rest[len(part[0]):]
	}
	return out, nil
}

// parseMatch returns one rule with all values of a match if a packet must have any of
// them, a rule for each if it must have none. Their comment is the match as nft would
// read it, without quotes.
func parseMatch(field, mask, operator, values string, f hostport.Family) (out []rule, err error) {
	comment, equals, negated := field+" ", "", operator == "!=" || operator == "ne"
	var parse func(string) (string, value, error)
	switch field {
	case "iifname":
		parse = parseInterface
	case "mark":
		masked, bits := mask != "", ^uint32(0)
		if !masked {
			values, mask, masked = strings.Cut(values, "/")
		}
		if masked {
			if bits, err = parseNumber(mask); err != nil {
				return nil, err
			}
		}
		comment, parse = "meta mark ", func(t string) (string, value, error) { return parseMark(t, bits) }
		if bits != ^uint32(0) {
			comment, equals = fmt.Sprintf("meta mark & %#x ", bits), "== "
		}
	default:
		parse = func(t string) (string, value, error) { return parseNet(t, f, strings.HasSuffix(field, "saddr")) }
	}
	if negated {
		equals = "!= "
	}
	var texts []string
	var none []expr.Any // of the values
	for t := range strings.SplitSeq(strings.TrimSuffix(strings.TrimPrefix(values, "{ "), " }"), " , ") {
		text, v, err := parse(t)
		if err != nil {
			return nil, err
		}
		texts, none = append(texts, text), append(none, v.match(expr.CmpOpNeq)...)
		if negated {
			out = append(out, newRule(v.match(expr.CmpOpEq), refuse()))
		}
	}
	if !negated {
		out = []rule{newRule(none, refuse())}
	}
	list := strings.Join(texts, ", ")
	if len(texts) > 1 {
		list = "{ " + list + " }"
	}
	comment += equals + list
	if len(comment) > maxComment {
		return nil, fmt.Errorf("a match of more than %d characters: name a wider network", maxComment)
	}
	for i := range out {
		out[i].comment = comment
	}
	return out, nil
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

// parseInterface accepts a name, quoted or not, that may end in "*". It is
// stricter than the kernel, which accepts nearly any byte, and refuses names that
// the comment of the rule would have as an operator.
func parseInterface(t string) (string, value, error) {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:@-"
	name, opened := strings.CutPrefix(t, `"`)
	name, closed := strings.CutSuffix(name, `"`)
	base := strings.TrimSuffix(name, "*")
	if name == "eq" || name == "ne" || opened != closed || base == "" || len(base) > 15 || strings.Trim(base, letters) != "" {
		return "", value{}, fmt.Errorf("%q is not an interface name", t)
	}
	return name, fromInterface(name), nil
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
