package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// taken reports the program that translates the packet before our rules.
func (x *explainer) taken(name string, by passage) bool {
	if len(by.rivals) > 0 {
		return x.fail(name, CodeOtherMappingFirst, &by.site, by.String(), Advice{Text: "Remove these rules, or use another host port."})
	}
	if by.site.Component == componentProxy {
		return x.fail(name, CodeServiceFirst, &by.site,
			fmt.Sprintf("a Service has it first, and kube-proxy leads it to %s", by.to), serviceAdvice)
	}
	what := "leads it to " + by.to.String()
	if by.action == actionRedirect {
		what = "redirects it to the node itself"
	}
	who := program(by.site.Component)
	advice := Advice{Text: "Remove that rule, or use another host port."}
	if who == componentPortmap {
		advice = Advice{Text: "It is a rule that portmap left. Remove it, or take the port over.", Command: "hostportctl adopt"}
	}
	return x.fail(name, CodeOtherMappingFirst, &by.site, fmt.Sprintf("%s has a rule before ours that %s", who, what), advice)
}

// program returns a component's name for use within a sentence.
func program(component string) string {
	if component == unknownComponent {
		return "another program"
	}
	return component
}

// translation walks the first hook, in which the packet is translated to the
// pod's address.
func (x *explainer) translation() bool {
	if x.q.FromNode {
		x.p.Out = "lo"
	}
	first := x.s.rules.pass(x.firstHook(), x.p, StateNew)
	x.doubts("translation", first)
	if first.action.lost() {
		code := CodeForwardDropped
		if first.site.Component == componentHostport {
			code = CodeGuard
		}
		return x.fail("translation", code, &first.site, first.String(), dropAdvice(first.site, x.to, x.q)...)
	}
	switch first.action {
	case actionDNAT, actionRedirect:
		if first.site.Component != componentHostport {
			return x.taken("translation", first)
		}
	default:
		return x.untranslated(first.accepted)
	}
	if x.owner.Dead {
		return x.fail("owner", CodeOwnerDead, &first.site, fmt.Sprintf("the sandbox of %s is gone, and its rules are still there", x.whom()),
			Advice{Text: "Remove the host ports of pods that are gone.", Command: "hostportctl prune"})
	}
	if first.to != x.to {
		return x.fail("translation", CodeOutOfSync, &first.site, fmt.Sprintf("the rule in the kernel leads to %s, and the record says %s", first.to, x.to), syncAdvice)
	}
	x.ours(first)
	if x.s.virtual(x.q.Protocol, x.p.OriginalDestination) {
		x.warn("ipvs", "IPVS serves %s too, and gets none of these packets: it comes after the translation. A Service of kube-proxy's "+
			"IPVS mode that has this port is hidden.", x.p.OriginalDestination)
	}
	for _, d := range x.owner.Differences {
		x.warn("translation", "Out of sync: %s. `hostportctl sync` repairs it.", d.Text)
	}
	if err := x.owner.LifeErr; err != nil {
		x.warn("owner", "It could not be told whether its sandbox is alive: %v.", err)
	}
	return true
}

// ours notes our rule, and rules of other programs that may come before it.
func (x *explainer) ours(first passage) {
	text, mark := fmt.Sprintf("%s leads it to %s", first.site, x.to), MarkOK
	if n := first.connections; n != nil {
		text += " (" + count(*n, "connection", "connections") + " so far)"
	}
	if len(first.rivals) > 0 {
		text, mark = text+", if the kernel asks its chain first", MarkUnknown
	}
	x.stage("translation", mark, componentHostport, sentence(text), &first.site)
	x.r.Stages[len(x.r.Stages)-1].Connections = first.connections
	x.rivals("translation", first.rivals)
	if len(first.rivals) == 0 {
		return
	}
	x.r.rivals = first.rivals
	advice := "Use another port for one of the two."
	if x.owner.Backend == "iptables" {
		advice = "Use another port for one of the two, or the nftables backend, whose chains come after those of the others."
	}
	x.r.Advice = append(x.r.Advice, Advice{Text: advice})
}

// rivals notes the other possible outcomes.
func (x *explainer) rivals(name string, rivals []passage) {
	for _, r := range rivals {
		x.unknown = true
		x.stage(name, MarkUnknown, r.site.Component, sentence(r.String()+", if the kernel asks its chain first: both have the same priority"), &r.site)
	}
}

// takers returns the names of the programs whose rules take a packet.
func takers(all []passage) string {
	var names []string
	for _, p := range all {
		names = append(names, program(p.site.Component))
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

// count returns a number with its noun.
func count(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatUint(n, 10) + " " + many
}

// flows checks established connections: they keep their destination, and pass
// no rule that translates.
func (x *explainer) flows() bool {
	others, number := []string{}, 0
	for to, n := range x.s.Flows {
		if to != x.to {
			others = append(others, to.String())
			number += n
		}
	}
	if number == 0 {
		if n := x.s.Flows[x.to]; n > 0 {
			x.ok("flows", "%s to %s.", count(uint64(n), "tracked connection leads", "tracked connections lead"), x.to)
		}
		return true
	}
	slices.Sort(others)
	const most = 3
	if len(others) > most {
		others = append(others[:most], "...")
	}
	x.warn("flows", "%s to %s, until the end.", count(uint64(number), "connection that began before leads", "connections that began before lead"), strings.Join(others, ", "))
	if x.q.Protocol == hostport.UDP {
		x.r.Advice = append(x.r.Advice, Advice{
			Text:    "Clients that keep sending from one port stay where they are: let them be decided anew.",
			Command: fmt.Sprintf("conntrack -D -p udp --orig-dst %s --orig-port-dst %d", x.q.Address, x.q.Port),
		})
	}
	return true
}

// syncAdvice is for rules that differ from the records.
var syncAdvice = Advice{Text: "Rewrite the rules from the records.", Command: "hostportctl sync"} //nolint:gochecknoglobals // a constant

// siteOrNil returns nil for the zero Site.
func siteOrNil(s Site) *Site {
	if s == (Site{}) {
		return nil
	}
	return &s
}

// serviceAdvice is for a port that a Service takes.
var serviceAdvice = Advice{ //nolint:gochecknoglobals // a constant
	Text: "Change the Service's nodePort, externalIPs or load balancer address, or the pod's hostPort.", Command: "kubectl get services -A -o wide",
}

// untranslated reports why no rule translated the packet. accepted is a rule of
// table nat that accepted it, if there is one.
func (x *explainer) untranslated(accepted Site) bool {
	if x.s.rulesHidden {
		x.programs()
		x.name()
		x.r.Verdict, x.r.Code = CannotTell, CodeNotVisible
		x.r.Sentence = fmt.Sprintf("It cannot be told whether %s reaches %s: rules could not be read", x.r.Question, x.whom())
		return false
	}
	if x.owner.Dead {
		return x.fail("owner", CodeOwnerDead, nil, fmt.Sprintf("the sandbox of %s is gone", x.whom()),
			Advice{Text: "Remove the host ports of pods that are gone.", Command: "hostportctl prune"})
	}
	if x.p.State == StateUntracked {
		return x.fail("translation", CodeOtherMappingFirst, nil, "a NOTRACK rule of another program keeps the packet out of connection tracking, so that it cannot be translated",
			Advice{Text: "Find the rule in table raw.", Command: "iptables -t raw -S"})
	}
	if x.s.virtual(x.q.Protocol, x.p.OriginalDestination) {
		return x.fail("translation", CodeServiceFirst, siteOrNil(accepted),
			fmt.Sprintf("a Service of kube-proxy's IPVS mode has %s, and no rule of ours comes before", x.p.OriginalDestination), serviceAdvice)
	}
	if accepted.Rule != "" && len(x.owner.Differences) == 0 {
		return x.fail("translation", CodeOtherMappingFirst, &accepted, fmt.Sprintf("%s keeps it from our rules: it accepts it as it is", accepted),
			Advice{Text: "Remove that rule, or move it behind the jump to CNI-HP-DNAT."})
	}
	conditions := x.owner.Options.Conditions(x.f)
	if len(x.owner.Differences) == 0 && len(conditions) > 0 {
		return x.fail("conditions", CodeConditionExcludes, nil,
			fmt.Sprintf("the packet does not meet the condition %q of its network configuration", strings.Join(conditions, " ")),
			Advice{Text: "Try --from with an address that meets it, or change conditionsV4/conditionsV6 in the conflist."})
	}
	text := "its rules are not in the kernel"
	if len(x.owner.Differences) > 0 {
		text += ": " + x.owner.Differences[0].Text
	}
	return x.fail("translation", CodeOutOfSync, nil, text, syncAdvice)
}

func (x *explainer) listener() bool {
	if len(x.s.Listeners) == 0 {
		return x.ok("listener", "Nothing listens on the node: that is as it should be, the kernel leads packets to the pod.")
	}
	x.shadow = true
	l := x.s.Listeners[0]
	x.warn("listener", "%s", sentence(fmt.Sprintf("%s listens on %s, and gets none of these packets", process(l.PID, l.Command), l.Address)))
	return true
}

// dropAdvice returns the advice against a rule that drops.
func dropAdvice(site Site, to netip.AddrPort, q *Question) []Advice {
	switch {
	case site.Component == "firewalld" && strings.HasSuffix(site.Chain, "_dnat"):
		// firewalld compares the port that the client connected to.
		return []Advice{{
			Text: "firewalld has StrictForwardPorts=yes and refuses what others translate: name the port to it, or set that to no.",
			Command: fmt.Sprintf("firewall-cmd --permanent --add-forward-port=port=%d:proto=%s:toport=%d:toaddr=%s && firewall-cmd --reload",
				q.Port, q.Protocol, to.Port(), to.Addr()),
		}}
	case site.Component == "firewalld":
		return []Advice{{
			Text:    "Allow the forwarding to the pod in firewalld.",
			Command: fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-source=%s && firewall-cmd --reload", to.Addr()),
		}}
	case site.Component == "Calico" || site.Component == "Cilium" || site.Component == "kube-router" || site.Component == "Antrea":
		return []Advice{{Text: "It is a network policy's: allow the client to reach the pod's port.", Command: "kubectl get networkpolicies -A"}}
	case strings.HasPrefix(site.Tool, "ip"):
		return []Advice{{
			Text: "Accept the connections that are translated.",
			Command: fmt.Sprintf("%s -I FORWARD -d %s -p %s --dport %d -m conntrack --ctstate DNAT -j ACCEPT",
				site.Tool, to.Addr(), q.Protocol, to.Port()),
		}}
	default:
		return []Advice{{
			Text:    "Accept the connections that are translated in this chain.",
			Command: fmt.Sprintf("nft insert rule %s %s %s ct status dnat accept", site.Family, site.Table, site.Chain),
		}}
	}
}
