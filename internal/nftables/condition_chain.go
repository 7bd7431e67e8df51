package nftables

import (
	"fmt"
	"hash/fnv"

	"github.com/google/nftables/expr"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// conditionChains returns the chains that turn away what does not meet the
// attachments' conditions, before their mappings are looked up. Only packets to
// ports that an attachment holds pass through its chain.
func conditionChains(all ...*hostport.Attachment) []chain {
	var out []chain
	for _, a := range all {
		for _, f := range hostport.Families() {
			if texts := a.Options.Conditions(f); len(texts) > 0 && len(a.Forwards(f)) > 0 {
				out = append(out, chain{name: conditionChainName(a, f), rules: conditionRules(texts, f)})
			}
		}
	}
	return out
}

// conditionChainName names the chain with an attachment's conditions of one
// family. Other conditions of the same attachment have another chain, so that
// an element that leads to a chain changes with it.
func conditionChainName(a *hostport.Attachment, f hostport.Family) string {
	h := fnv.New64a()
	h.Write([]byte(a.Key.String()))
	for _, text := range a.Options.Conditions(f) {
		h.Write([]byte("\x00" + text))
	}
	return fmt.Sprintf("cond%d_%016x", f, h.Sum64())
}

// conditionRules refuse what does not meet a condition. A record whose
// conditions cannot be read, by an older version perhaps, lets nothing pass:
// better no mapping than one that is open to all.
func conditionRules(texts []string, f hostport.Family) []rule {
	conditions, err := parseConditions(texts, f)
	if err != nil {
		return []rule{newRule(refuse())}
	}
	var out []rule
	for _, c := range conditions {
		out = append(out, c.rules()...)
	}
	return out
}

func refuse() []expr.Any { return verdict(expr.VerdictGoto, chainUnmapped) }

// rules refuse the packets that do not meet the condition: one rule with all
// values if it must be any of them, a rule for each if it must be none.
func (c condition) rules() []rule {
	var out []rule
	if c.negated {
		for _, match := range c.values {
			out = append(out, newRule(match(equal), refuse()))
		}
	} else {
		var all [][]expr.Any
		for _, match := range c.values {
			all = append(all, match(unequal))
		}
		out = []rule{newRule(append(all, refuse())...)}
	}
	for i := range out {
		out[i].comment = c.text
	}
	return out
}
