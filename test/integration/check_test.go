package integration

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/hostport-cni/hostport/test/world"
)

// checkScenarios are about CHECK, which compares what is there with what
// should be, and says what differs.
func checkScenarios() []scenario {
	return []scenario{
		{name: "CHECK finds every rule that is missing", backends: iptablesOnly, tampers: true, run: missingRules},
		{name: "CHECK finds a rule that was changed", backends: iptablesOnly, tampers: true, run: changedRules},
		{name: "CHECK finds every rule and element that is missing", backends: nftablesOnly, tampers: true, reloads: true, run: missingNFT},
		{name: "CHECK finds an element that leads elsewhere", backends: nftablesOnly, tampers: true, reloads: true, run: changedElement},
		{name: "CHECK finds route_localnet off", families: v4Only, run: func(e *env) {
			a := e.web()
			e.w.Node.Sysctl("net/ipv4/conf/cni0/route_localnet", "0")
			e.checkFinds(a, "route_localnet of cni0 off", "route_localnet")
			e.w.Node.Sysctl("net/ipv4/conf/cni0/route_localnet", "1")
			e.checks(a)
		}},
		{name: "CHECK finds that everything is gone", report: "containernetworking/plugins 512", tampers: true, run: func(e *env) {
			a := e.web()
			e.removeOurs()
			e.checkFinds(a, "all rules removed")
		}},
		{name: "CHECK of mappings that were not added", run: func(e *env) {
			a := e.web()
			other := world.Config{"runtimeConfig": world.Config{"portMappings": []world.Mapping{world.TCP(8081, 80)}}}
			cniErr, err := e.w.Invoke(a.Invocation("CHECK", other)).Error()
			if err != nil || cniErr == nil || !strings.Contains(cniErr.Msg, "8081") {
				e.Errorf("CHECK of another port: %v, %v", cniErr, err)
			}
		}},
		{name: "CHECK of an attachment never seen", run: func(e *env) {
			a := e.add("web")
			i := a.Invocation("CHECK", world.Config{"runtimeConfig": world.Config{"portMappings": []world.Mapping{world.TCP(8080, 80)}}})
			cniErr, err := e.w.Invoke(i).Error()
			if err != nil || cniErr == nil {
				e.Errorf("CHECK of the unknown: %v, %v; want an error", cniErr, err)
			}
		}},
		{name: "CHECK is content beside strangers' rules", run: func(e *env) {
			a := e.web()
			e.w.IptablesRestore(e.f, "*nat\n-I PREROUTING 1 -p tcp --dport 1 -j RETURN\n-A POSTROUTING -p tcp --dport 1 -j RETURN\nCOMMIT\n")
			e.checks(a)
			e.w.IptablesRestore(e.f, "*nat\n-D PREROUTING -p tcp --dport 1 -j RETURN\n-D POSTROUTING -p tcp --dport 1 -j RETURN\nCOMMIT\n")
		}},
	}
}

// checkFinds wants CHECK to fail, and to say all of these words.
func (e *env) checkFinds(a *world.Attachment, what string, words ...string) {
	e.Helper()
	cniErr, err := a.CheckHostport()
	if err != nil {
		e.Errorf("CHECK after %s: %v", what, err)
		return
	}
	if cniErr == nil {
		e.Errorf("CHECK does not see: %s", what)
		return
	}
	for _, word := range words {
		if !strings.Contains(cniErr.Msg+cniErr.Details, word) {
			e.Errorf("CHECK does not name %q after %s: %s %s", word, what, cniErr.Msg, cniErr.Details)
		}
	}
}

// busy is a pod with one mapping of every kind.
func (e *env) busy() *world.Attachment {
	e.Helper()
	return e.add("busy", world.TCP(8080, 80), world.UDP(8081, 81), world.TCP(30000, 82).On(e.f.Node()))
}

// rule is a line of iptables-save with the table that it stands in.
type rule struct{ table, line string }

func (r rule) chain() string { return strings.Fields(r.line)[1] }

// ours lists the rules of the plugin: in its chains, and leading there.
func (e *env) ours() []rule {
	e.Helper()
	var rules []rule
	table := ""
	for line := range strings.Lines(e.w.Rules(e.f)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "*") {
			table = line
		}
		if strings.HasPrefix(line, "-A ") && strings.Contains(line, "CNI-HP") {
			rules = append(rules, rule{table, line})
		}
	}
	if len(rules) < 8 {
		e.Fatalf("only %d rules are there:\n%s", len(rules), e.w.Rules(e.f))
	}
	return rules
}

// restore replaces the tables of the family with what they were.
func (e *env) restore(saved string) {
	e.Helper()
	e.w.IptablesRestoreAll(e.f, saved)
}

// missingRules takes each rule of the plugin away, one at a time.
func missingRules(e *env) {
	a := e.busy()
	saved := e.w.Save(e.f)
	for _, r := range e.ours() {
		del := strings.Replace(r.line, "-A ", "-D ", 1)
		e.w.IptablesRestore(e.f, fmt.Sprintf("%s\n%s\nCOMMIT\n", r.table, del))
		e.checkFinds(a, "rule removed: "+r.line, r.chain())
		e.restore(saved)
	}
	e.checks(a)
}

// changedRules gives each rule of the plugin another content in its place,
// and puts a rule in front of it.
func changedRules(e *env) {
	a := e.busy()
	saved, rules := e.w.Save(e.f), e.ours()
	other := "10.244.0.99"
	if e.f == world.V6 {
		other = "[fd00:10:244::99]"
	}
	changes := []struct {
		find *regexp.Regexp
		with string
	}{
		{regexp.MustCompile(`--to-destination \S+:80$`), "--to-destination " + other + ":80"},
		{regexp.MustCompile(`--to-destination (\S+):80$`), "--to-destination ${1}:8888"},
		{regexp.MustCompile(`--dport 8080 `), "--dport 8088 "},
		{regexp.MustCompile(`--dst-type LOCAL`), "--dst-type UNICAST"},
		{regexp.MustCompile(`-j MASQUERADE`), "-j RETURN"},
		{regexp.MustCompile(`--set-xmark 0x2000/0x2000`), "--set-xmark 0x4000/0x4000"},
		{regexp.MustCompile(`-d \S+ (.*) --dport 30000`), "${1} --dport 30000"},
	}
	for _, c := range changes {
		found := false
		for _, r := range rules {
			changed := c.find.ReplaceAllString(r.line, c.with)
			if changed == r.line {
				continue
			}
			found = true
			e.restore(strings.Replace(saved, r.line+"\n", changed+"\n", 1))
			e.checkFinds(a, fmt.Sprintf("rule changed: %s to %s", r.line, changed), r.chain())
		}
		if !found {
			e.Errorf("no rule matches %s:\n%s", c.find, saved)
		}
	}
	e.restore(saved)
	e.checks(a)
	first := regexp.MustCompile(`(?m)^-A CNI-HP-DNAT`)
	at := first.FindStringIndex(saved)
	if at == nil {
		e.Fatalf("no dispatch chain:\n%s", saved)
	}
	e.restore(saved[:at[0]] + "-A CNI-HP-DNAT -j RETURN\n" + saved[at[0]:])
	e.checkFinds(a, "a RETURN before the dispatch", "CNI-HP-DNAT")
}

// reload replaces the whole ruleset with a saved one.
func (e *env) reload(saved string) {
	e.Helper()
	e.w.NFTReload(saved)
}
