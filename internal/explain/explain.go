package explain

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// clientPort stands for the port that a client's kernel chooses.
const clientPort = 40000

// explainer follows one packet.
type explainer struct {
	q *Question
	s *Snapshot
	f hostport.Family
	r *Report

	all       []node.Examined
	concerned []node.Examined
	owner     *node.Examined
	mapping   hostport.Mapping
	to        netip.AddrPort // the pod's, as recorded

	p       *Packet
	route   Route // to the pod
	unknown bool
	shadow  bool
}

// Explain predicts what happens to the first packet of a connection, and to the
// reply. If several obstacles stop it, the report names the first on its path.
func Explain(q *Question, s *Snapshot, all []node.Examined) *Report {
	from := q.From.String()
	if q.FromName != "" {
		from = "pod " + q.FromName + " (" + from + ")"
	}
	if q.FromNode {
		from = "the node"
	}
	x := &explainer{
		q: q, s: s, f: hostport.FamilyOf(q.Address), all: all, concerned: concerned(q, all),
		r: &Report{
			Version: Version,
			Question: QuestionRecord{
				Port: q.Port, Protocol: q.Protocol, Address: q.Address.String(),
				From: from, Assumed: q.Assumed, Interface: q.In,
			},
			Stages: []Stage{}, Advice: []Advice{},
		},
	}
	x.p = s.packet(q.Protocol, netip.AddrPortFrom(q.From, clientPort), netip.AddrPortFrom(q.Address, q.Port), q.In)
	for _, stage := range []func() bool{
		x.address, x.conntrack, x.record, x.translation, x.flows, x.listener, x.reversePath, x.routeToPod, x.forwarding,
		x.forward, x.loopback, x.postrouting, x.pod, x.answer, x.programs,
	} {
		if !stage() {
			return x.r
		}
	}
	x.conclude()
	return x.r
}

// whom returns the owner's name for texts.
func (x *explainer) whom() string {
	if x.owner == nil {
		return "any pod"
	}
	return nameOf(x.owner.Attachment)
}

func nameOf(a *hostport.Attachment) string {
	if p := a.Pod.String(); p != "" {
		return p
	}
	return "container " + a.ContainerID[:min(len(a.ContainerID), 13)]
}

func (x *explainer) stage(name string, mark Mark, component, text string, rule *Site) {
	x.r.Stages = append(x.r.Stages, Stage{Name: name, Mark: mark, Component: component, Text: text, Rule: rule})
}

func (x *explainer) ok(name, text string, args ...any) bool {
	x.stage(name, MarkOK, "", fmt.Sprintf(text, args...), nil)
	return true
}

func (x *explainer) warn(name, text string, args ...any) {
	x.stage(name, MarkWarn, "", fmt.Sprintf(text, args...), nil)
}

// doubts notes rules that may change the outcome.
func (x *explainer) doubts(name string, p passage) {
	for _, d := range p.doubts {
		x.unknown = true
		site := d.site
		x.stage(name, MarkUnknown, site.Component, fmt.Sprintf("%s may match, and %s it then: %s.", site, d.effect.action, d.reason), &site)
	}
}

// fail ends the explanation with a failed stage.
func (x *explainer) fail(name string, code Code, site *Site, text string, advice ...Advice) bool {
	component := ""
	if site != nil {
		component = site.Component
	}
	x.stage(name, MarkFail, component, sentence(text), site)
	x.r.Verdict, x.r.Code = DoesNotReach, code
	x.name()
	x.r.Sentence = fmt.Sprintf("%s does not reach %s: %s", x.r.Question, x.whom(), text)
	x.r.Advice = append(x.r.Advice, advice...)
	return false
}

// sentence returns text as a sentence: with a capital, unless its first word is
// a name.
func sentence(s string) string {
	first, _, _ := strings.Cut(s, " ")
	if strings.ContainsAny(first, "/.:_-") {
		return s + "."
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// name notes the pod that the packet is for.
func (x *explainer) name() {
	if x.owner != nil {
		x.r.Pod = x.whom()
	}
	if x.to.IsValid() {
		x.r.Target = x.to.String()
	}
}

func (x *explainer) conclude() {
	x.name()
	switch {
	case x.unknown:
		why := "see the stages marked \"?\""
		if len(x.r.rivals) > 0 {
			why = fmt.Sprintf("%s and %s each have a rule for it, in chains of the same priority, and the kernel does not tell which it asks first",
				componentHostport, takers(x.r.rivals))
		}
		x.r.Verdict, x.r.Code = CannotTell, CodeNotVisible
		x.r.Sentence = fmt.Sprintf("It cannot be told whether %s reaches %s: %s", x.r.Question, x.whom(), why)
		x.r.Advice = append(x.r.Advice, observe(x.q.Port, x.q.Protocol))
		return
	case x.shadow:
		x.r.Code = CodeListenerShadowed
		l := x.s.Listeners[0]
		x.r.Sentence = fmt.Sprintf("%s reaches %s (%s), and hides %s", x.r.Question, x.whom(), x.to, process(l.PID, l.Command))
		x.r.Advice = append(x.r.Advice, Advice{Text: "Move the process or the host port to another port if clients should reach the process."})
	default:
		x.r.Code = CodeOK
		x.r.Sentence = fmt.Sprintf("%s reaches %s (%s)", x.r.Question, x.whom(), x.to)
	}
	x.r.Verdict = Reaches
}

// observe returns the advice to observe what the rules leave open.
func observe(port uint16, p hostport.Protocol) Advice {
	return Advice{
		Text:    "Have one packet sent (--probe), or watch what real ones meet.",
		Command: fmt.Sprintf("hostportctl trace %d/%s", port, p),
	}
}

func process(pid int, command string) string {
	if pid == 0 {
		return "a socket of an unknown process"
	}
	return fmt.Sprintf("process %d (%s)", pid, command)
}

func (x *explainer) address() bool {
	q := x.q
	if x.s.isLocal(q.Address) {
		on := "lo"
		if l := x.s.holder(q.Address); l != nil {
			on = l.Name
		}
		if q.Address.IsLoopback() && !q.FromNode {
			return x.fail("address", CodeGuard, kernelSite(),
				q.Address.String()+" is the node's loopback, which nothing outside the node may reach",
				Advice{Text: "Ask an address of the node's interfaces."})
		}
		if q.Address.Is6() && q.Address.IsLoopback() {
			return x.fail("address", CodeGuard, &Site{Component: componentHostport},
				"the kernel cannot lead ::1 to a pod (it has no route_localnet for IPv6), so it is left alone",
				Advice{Text: "Use 127.0.0.1, or an address of the node's interfaces."})
		}
		return x.ok("address", "%s is the node's own, on %s.", q.Address, on)
	}
	// A Service's address may not be the node's.
	first := x.s.rules.pass(x.firstHook(), x.p.clone(), StateNew)
	if first.action == actionDNAT && first.site.Component == componentProxy {
		return x.taken("address", first)
	}
	var own []string
	for _, l := range x.s.Links {
		for _, p := range l.Addresses {
			if hostport.FamilyOf(p.Addr()) == x.f && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
				own = append(own, p.Addr().String())
			}
		}
	}
	const most = 6
	if len(own) > most {
		own = append(own[:most], "...")
	}
	return x.fail("address", CodeAddressNotLocal, nil, q.Address.String()+" is not an address of this node",
		Advice{Text: "Ask one of the node's own addresses: " + strings.Join(own, ", ") + "."})
}

func (x *explainer) firstHook() string {
	if x.q.FromNode {
		return hookOutput
	}
	return hookPrerouting
}

func (x *explainer) conntrack() bool {
	c := x.s.Conntrack
	switch {
	case c.Max == 0:
		return true
	case c.Count >= c.Max:
		return x.fail("conntrack", CodeConntrackFull, kernelSite(),
			fmt.Sprintf("the connection tracking table is full (%d of %d), so new connections are dropped", c.Count, c.Max),
			Advice{
				Text: "Raise the limit, and find out who fills the table (conntrack -L).", Command: c.raise(),
			})
	case c.nearlyFull():
		x.warn("conntrack", "The connection tracking table is nearly full: %d of %d.", c.Count, c.Max)
		return true
	default:
		return x.ok("conntrack", "%d of %d entries of the connection tracking table are in use.", c.Count, c.Max)
	}
}

// record finds the mapping that the packet is for.
func (x *explainer) record() bool {
	if len(x.concerned) == 0 {
		return x.noMapping()
	}
	for _, wildcard := range []bool{false, true} {
		for i, a := range x.concerned {
			for _, m := range a.Mappings {
				if !x.q.Maps(m) || m.Wildcard() != wildcard || !m.Serves(x.f) {
					continue
				}
				pod, has := a.Address(x.f)
				if has && (wildcard || m.HostIP.Unmap() == x.q.Address) {
					x.owner, x.mapping = &x.concerned[i], m
					x.to = netip.AddrPortFrom(pod.Addr(), m.ContainerPort)
					x.ok("record", "%s is recorded for %s at %s (backend %s).", m, x.whom(), x.to, a.Backend)
					return true
				}
			}
		}
	}
	return x.wrongAddress()
}

// wrongAddress reports why no mapping of the port applies to this address.
func (x *explainer) wrongAddress() bool {
	x.owner = &x.concerned[0]
	var ips []string
	for i, a := range x.concerned {
		for _, m := range a.Mappings {
			if _, has := a.Address(x.f); x.q.Maps(m) && m.Serves(x.f) && !m.Wildcard() && has {
				x.owner = &x.concerned[i]
				ips = append(ips, m.HostIP.String())
			}
		}
	}
	if len(ips) == 0 {
		text := fmt.Sprintf("%s has no %s address", nameOf(x.owner.Attachment), x.f)
		advice := "Use an address of the other family, or give the pod's network both families."
		if _, has := x.owner.Address(x.f); has {
			text = "the mapping is for the other address family only"
			advice = "Ask an address of the family of the mapping's hostIP, or leave hostIP out."
		}
		return x.fail("record", CodeFamilyMissing, nil, text, Advice{Text: advice})
	}
	return x.fail("record", CodeConditionExcludes, nil,
		"the port is mapped on "+strings.Join(ips, " and ")+" only (hostIP)",
		Advice{Text: "Ask that address, or leave hostIP out of the pod's ports."})
}

// noMapping reports the likely reason why nothing is recorded for the port.
func (x *explainer) noMapping() bool {
	text := "no pod on this node has this host port"
	for _, a := range x.all {
		for _, m := range a.Mappings {
			if m.HostPort == x.q.Port {
				text = fmt.Sprintf("no pod on this node has this host port for %s, and %s has it for %s", x.q.Protocol, nameOf(a.Attachment), m.Protocol)
			}
		}
	}
	advice := []Advice{
		{Text: "See which ports are mapped.", Command: "hostportctl list"},
		{Text: "Is the pod on this node, and does it say hostPort?", Command: "kubectl get pod -o wide"},
		{
			Text:    "Does the conflist's entry have \"capabilities\": {\"portMappings\": true}? Without it the runtime sends no ports.",
			Command: "hostportctl doctor",
		},
	}
	if l := x.s.Listeners; len(l) > 0 {
		text = fmt.Sprintf("no mapping is recorded: %s has the port itself, as a pod with hostNetwork does", process(l[0].PID, l[0].Command))
		advice = nil
	}
	first := x.s.rules.pass(x.firstHook(), x.p.clone(), StateNew)
	if first.action == actionDNAT || first.action == actionRedirect {
		text = fmt.Sprintf("no mapping is recorded: %s leads it to %s", first.site.Component, first.to)
		if len(first.rivals) > 0 {
			text = "no mapping is recorded: " + first.String()
		}
		advice = nil
		if first.site.Component == componentCRIO {
			advice = []Advice{{Text: "CRI-O serves host ports itself, unless disable_hostport_mapping is set in its configuration.", Command: "hostportctl doctor"}}
		}
		return x.fail("record", CodeNoMapping, &first.site, text, advice...)
	}
	return x.fail("record", CodeNoMapping, nil, text, advice...)
}
