package integration

import (
	"encoding/json"
	"fmt"
	"strings"
)

// nftRules lists the handles of the rules in each chain of the plugin's table.
func (e *env) nftRules() (chains []string, handles map[string][]string) {
	e.Helper()
	handles = map[string][]string{}
	for line := range strings.Lines(e.w.Node.Command("nft", "-a", "list", "table", "inet", "hostport")) {
		before, handle, _ := strings.Cut(strings.TrimSpace(line), " # handle ")
		fields := strings.Fields(before)
		if len(fields) == 0 {
			continue
		}
		switch {
		case strings.HasPrefix(line, "\tchain "):
			chains = append(chains, fields[1])
		case strings.HasPrefix(line, "\t\t") && len(chains) > 0 && handle != "":
			chain := chains[len(chains)-1]
			handles[chain] = append(handles[chain], handle)
		}
	}
	return chains, handles
}

// missingNFT takes each rule and each element of the plugin's table away, one
// at a time.
func missingNFT(e *env) {
	a := e.busy()
	saved := e.w.ListNFT()
	chains, handles := e.nftRules()
	found := 0
	for _, chain := range chains {
		for i := range handles[chain] {
			// Handles change when the ruleset is loaded again.
			_, now := e.nftRules()
			e.w.NFT(fmt.Sprintf("delete rule inet hostport %s handle %s", chain, now[chain][i]))
			e.checkFinds(a, fmt.Sprintf("rule %d of chain %s removed", i, chain), chain)
			e.reload(saved)
			found++
		}
	}
	if found < 4 {
		e.Fatalf("only %d rules:\n%s", found, saved)
	}
	elements := e.elements()
	if len(elements) < 3 {
		e.Fatalf("only %d elements:\n%s", len(elements), saved)
	}
	for _, el := range elements {
		e.w.NFT(fmt.Sprintf("delete element inet hostport %s { %s }", el.in, el.key))
		e.checkFinds(a, fmt.Sprintf("element %s removed from %s", el.key, el.in), el.in)
		e.reload(saved)
	}
	e.checks(a)
}

// changedElement lets a mapping lead to another address and to another port,
// and takes its owner's name off.
func changedElement(e *env) {
	a := e.busy()
	saved := e.w.ListNFT()
	found := 0
	for _, el := range e.elements() {
		if el.value == "" {
			continue
		}
		found++
		address, port, _ := strings.Cut(el.value, " . ")
		for _, value := range []string{address + " . 1" + port, e.f.Elsewhere().String() + " . " + port} {
			e.w.NFT(fmt.Sprintf("delete element inet hostport %[1]s { %[2]s }\nadd element inet hostport %[1]s { %[2]s counter comment %[4]q : %[3]s }",
				el.in, el.key, value, el.comment))
			e.checkFinds(a, fmt.Sprintf("element %s of %s leads to %s", el.key, el.in, value), el.in)
			e.reload(saved)
		}
		e.w.NFT(fmt.Sprintf("delete element inet hostport %[1]s { %[2]s }\nadd element inet hostport %[1]s { %[2]s counter comment \"stranger\" : %[3]s }",
			el.in, el.key, el.value))
		e.checkFinds(a, fmt.Sprintf("element %s of %s has another owner", el.key, el.in), el.in)
		e.reload(saved)
	}
	if found < 3 {
		e.Fatalf("only %d mappings:\n%s", found, saved)
	}
	e.checks(a)
}

// element is one of a set or map, in the words of nft. The value is empty in
// a set.
type element struct{ in, key, value, comment string }

// elements lists those of the plugin's table.
func (e *env) elements() []element {
	e.Helper()
	var listing struct {
		Nftables []map[string]struct {
			Name string
			Elem []any
		}
	}
	text := e.w.Node.Command("nft", "-j", "list", "table", "inet", "hostport")
	if err := json.Unmarshal([]byte(text), &listing); err != nil {
		e.Fatal(err)
	}
	var found []element
	for _, object := range listing.Nftables {
		for kind, o := range object {
			if kind != "set" && kind != "map" {
				continue
			}
			for _, raw := range o.Elem {
				el := element{in: o.Name}
				if pair, ok := raw.([]any); ok && kind == "map" {
					raw, el.value = pair[0], nftWords(pair[1])
				}
				if wrapped, ok := raw.(map[string]any); ok && wrapped["elem"] != nil {
					inner := wrapped["elem"].(map[string]any)
					el.comment, _ = inner["comment"].(string)
					raw = inner["val"]
				}
				el.key = nftWords(raw)
				found = append(found, el)
			}
		}
	}
	return found
}

// nftWords writes a JSON value of nft as its command line takes it.
func nftWords(v any) string {
	object, ok := v.(map[string]any)
	if !ok {
		return fmt.Sprint(v)
	}
	var words []string
	if parts, ok := object["concat"].([]any); ok {
		for _, p := range parts {
			words = append(words, nftWords(p))
		}
		return strings.Join(words, " . ")
	}
	if prefix, ok := object["prefix"].(map[string]any); ok {
		return fmt.Sprintf("%v/%v", prefix["addr"], prefix["len"])
	}
	if bounds, ok := object["range"].([]any); ok {
		return fmt.Sprintf("%v-%v", bounds[0], bounds[1])
	}
	return fmt.Sprint(v)
}
