package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostport-cni/hostport/internal/listener"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// reversePath applies the kernel's check of the source address.
func (x *explainer) reversePath() bool {
	if x.q.FromNode || x.f == hostport.IPv6 || x.q.In == "" {
		return true
	}
	all, _ := strconv.Atoi(x.s.sysctl(x.f, "all", "rp_filter"))
	own, _ := strconv.Atoi(x.s.sysctl(x.f, x.q.In, "rp_filter"))
	back := x.s.Routes[x.q.From]
	const strict, loose = 1, 2
	mode := max(all, own)
	advice := Advice{
		Text:    "Route answers to the client by the interface that its packets come by, or set the filter to loose.",
		Command: "sysctl -w net.ipv4.conf." + x.q.In + ".rp_filter=2",
	}
	switch {
	case mode == strict && back.Out != x.q.In:
		where := "has no route"
		if back.Out != "" {
			where = "routes answers by " + back.Out
		}
		return x.fail("rp_filter", CodeRPFilter, kernelSite(),
			fmt.Sprintf("rp_filter is strict on %s: packets from %s come in there, and the node %s", x.q.In, x.q.From, where), advice)
	case mode == loose && back.Err != "":
		return x.fail("rp_filter", CodeRPFilter, kernelSite(),
			fmt.Sprintf("rp_filter is on and the node has no route to %s", x.q.From), advice)
	}
	return x.ok("rp_filter", "Packets from %s may come in by %s (rp_filter %d).", x.q.From, x.q.In, mode)
}

func (x *explainer) routeToPod() bool {
	x.route = x.s.Routes[x.to.Addr()]
	if x.route.Err != "" {
		return x.fail("route", CodeNoRoute, kernelSite(),
			fmt.Sprintf("the node has no route to %s (%s)", x.to.Addr(), x.route.Err),
			Advice{Text: "Find out who removed the route; a new pod of the same controller gets a new one.", Command: "ip route get " + x.to.Addr().String()})
	}
	l := x.s.link(x.route.Out)
	view := x.s.Pods[x.owner.Key]
	if peer := x.s.link(view.Peer); view.Peer != "" && x.route.Out != view.Peer && x.route.Out != peer.Master && x.route.Default {
		return x.fail("route", CodeNoRoute, kernelSite(),
			fmt.Sprintf("the node sends packets for %s out by %s with the default route, and the pod is behind %s", x.to.Addr(), x.route.Out, view.Peer),
			Advice{Text: "Find out who removed the pod's route; a new pod gets a new one.", Command: "ip route get " + x.to.Addr().String()})
	}
	if l != nil && !l.Up {
		return x.fail("route", CodeNoRoute, kernelSite(), fmt.Sprintf("interface %s, which leads to %s, is down", l.Name, x.to.Addr()),
			Advice{Text: "Bring the interface up.", Command: "ip link set " + l.Name + " up"})
	}
	return x.ok("route", "%s is reached by %s.", x.to.Addr(), x.route.Out)
}

func (x *explainer) forwarding() bool {
	if x.q.FromNode {
		return x.ok("forwarding", "A packet of the node's own is not forwarded.")
	}
	iface, command := x.q.In, "sysctl -w net.ipv4.ip_forward=1"
	if x.f == hostport.IPv6 {
		// IPv6 has one global switch; the one of an interface is for router
		// advertisements.
		iface, command = "all", "sysctl -w net.ipv6.conf.all.forwarding=1"
	}
	value := x.s.sysctl(x.f, iface, "forwarding")
	if value == "0" {
		what := "IPv6 forwarding is off on this node"
		if x.f == hostport.IPv4 {
			what = "IPv4 forwarding is off on " + iface
			if all := x.s.sysctl(x.f, "all", "forwarding"); all == "1" {
				command = "sysctl -w net.ipv4.conf." + iface + ".forwarding=1"
			}
		}
		return x.fail("forwarding", CodeForwardingOff, kernelSite(), what,
			Advice{Text: "Turn it on, and keep it on in /etc/sysctl.d.", Command: command})
	}
	return x.ok("forwarding", "The node forwards packets that come by %s.", x.q.In)
}

// forward walks the forward hook; the node's own packets have already passed
// the output hook.
func (x *explainer) forward() bool {
	x.p.Out = x.route.Out
	if x.q.FromNode {
		return true
	}
	on := x.s.rules.pass(hookForward, x.p, StateNew)
	x.doubts("forward", on)
	if on.action.lost() {
		site := on.site
		text := on.String()
		if site.Rule == "" {
			text = fmt.Sprintf("the FORWARD policy of %s is DROP and no rule accepts it", site.Tool)
			if site.Tool == "nftables" {
				text = fmt.Sprintf("the policy of chain %s of nftables table %s %s is drop and no rule accepts it", site.Chain, site.Family, site.Table)
			}
		}
		return x.fail("forward", CodeForwardDropped, &site, text, dropAdvice(site, x.to, x.q)...)
	}
	return x.ok("forward", "No forward chain drops it (of %d).", len(x.s.rules.at(hookForward, x.f, false)))
}

// loopback checks the requirements of 127.0.0.1.
func (x *explainer) loopback() bool {
	if !x.q.FromNode || !x.q.Address.IsLoopback() {
		return true
	}
	if x.s.sysctl(x.f, x.route.Out, "route_localnet") != "1" && x.s.sysctl(x.f, "all", "route_localnet") != "1" {
		return x.fail("loopback", CodeGuard, kernelSite(),
			fmt.Sprintf("route_localnet is off on %s, so the kernel keeps 127.0.0.0/8 on lo", x.route.Out), syncAdvice)
	}
	return x.ok("loopback", "route_localnet is on on %s, and the guard drops 127.0.0.0/8 from outside.", x.route.Out)
}

func (x *explainer) postrouting() bool {
	before := x.p.Source
	on := x.s.rules.pass(hookPostrouting, x.p, StateNew)
	x.doubts("masquerade", on)
	if on.action.lost() {
		return x.fail("masquerade", CodeForwardDropped, &on.site, on.String(), dropAdvice(on.site, x.to, x.q)...)
	}
	x.rivals("masquerade", slices.DeleteFunc(on.rivals, func(r passage) bool { return r.to == on.to }))
	switch on.action {
	case actionSNAT, actionMasquerade:
		site := on.site
		x.stage("masquerade", MarkOK, site.Component, fmt.Sprintf("The pod sees %s instead of the client's address.", x.p.Source.Addr()), &site)
		return true
	}
	if before.Addr().IsLoopback() {
		return x.fail("masquerade", CodeOutOfSync, nil, "nothing masquerades "+before.Addr().String()+", which the pod cannot answer", syncAdvice)
	}
	return x.ok("masquerade", "The pod sees the client's own address, %s.", before.Addr())
}

// pod looks for the socket in the pod.
func (x *explainer) pod() bool {
	view, ok := x.s.Pods[x.owner.Key]
	if !ok || view.Hidden != "" {
		x.unknown = true
		x.stage("pod", MarkUnknown, "", fmt.Sprintf("The pod's network namespace cannot be seen: %s.", view.Hidden), nil)
		x.r.Advice = append(x.r.Advice, Advice{Text: "Run hostportctl as root in the node's mount and PID namespaces."})
		return true
	}
	if x.q.Protocol == hostport.SCTP {
		x.stage("pod", MarkUnknown, "", "The kernel does not list SCTP sockets that listen.", nil)
		return true
	}
	var elsewhere []listener.Listener
	for _, l := range view.Listeners {
		if l.Mapping.HostPort != x.to.Port() {
			continue
		}
		at := l.Address.Addr()
		if at.IsUnspecified() && (hostport.FamilyOf(at) == x.f || at.Is6()) || at == x.to.Addr() {
			return x.ok("pod", "%s", sentence(fmt.Sprintf("%s listens on %s in the pod", process(l.PID, l.Command), l.Address)))
		}
		elsewhere = append(elsewhere, l)
	}
	name := nameOf(x.owner.Attachment)
	if len(elsewhere) > 0 {
		l := elsewhere[0]
		return x.fail("pod", CodePodNotListening, nil,
			fmt.Sprintf("%s listens on %s only, and the packet is for %s", name, l.Address, x.to),
			Advice{Text: "Make the program in the pod listen on 0.0.0.0 or [::]."})
	}
	return x.fail("pod", CodePodNotListening, nil, fmt.Sprintf("nothing in %s listens on %d/%s", name, x.to.Port(), x.q.Protocol),
		Advice{Text: "Is containerPort the port that the program listens on, and has it started?", Command: x.logs()})
}

func (x *explainer) logs() string {
	if p := x.owner.Pod; p.Name != "" {
		return "kubectl logs -n " + p.Namespace + " " + p.Name
	}
	return ""
}

// answer follows the reply: out of the pod, through this node and its hooks.
func (x *explainer) answer() bool {
	view := x.s.Pods[x.owner.Key]
	client := x.p.Source.Addr()
	if view.Hidden != "" {
		return true
	}
	back, known := view.Return[client]
	if !known {
		x.warn("answer", "The pod's route to %s was not looked up.", client)
		return true
	}
	if back.Err != "" {
		return x.fail("answer", CodeReturnPath, nil, fmt.Sprintf("the pod has no route to %s (%s), so it cannot answer", client, back.Err),
			Advice{Text: "Give the pod a default route (the main plugin's ipam routes), or masquerade clients.", Command: ""})
	}
	if !x.byNode(view, back, client) {
		return false
	}
	reply := &Packet{
		Protocol: x.q.Protocol, Source: x.to, Destination: x.p.Source, In: x.route.Out, State: StateEstablished,
		DNAT: x.p.DNAT, SNAT: x.p.SNAT, OriginalSource: x.p.OriginalSource, OriginalDestination: x.p.OriginalDestination,
		ctMark: x.p.ctMark, labels: x.p.labels, node: x.s,
	}
	hooks := []string{hookPrerouting, hookForward, hookPostrouting}
	if x.q.FromNode {
		hooks = []string{hookPrerouting, hookInput}
	}
	for _, hook := range hooks {
		if hook != hookPrerouting {
			// The first hook has restored the client's own address.
			reply.Destination = x.p.OriginalSource
			reply.Out = ""
			if hook != hookInput {
				reply.Out = x.s.Routes[x.q.From].Out
			}
		}
		on := x.s.rules.pass(hook, reply, StateEstablished)
		x.doubts("answer", on)
		if on.action.lost() {
			site := on.site
			return x.fail("answer", CodeReturnPath, &site, "the answer is lost: "+on.String(),
				Advice{Text: "Accept packets of established connections.", Command: established(site)})
		}
	}
	return x.ok("answer", "The answer leaves the pod by %s and passes this node.", back.Out)
}

func established(site Site) string {
	if site.Tool == "nftables" {
		return fmt.Sprintf("nft insert rule %s %s %s ct state established,related accept", site.Family, site.Table, site.Chain)
	}
	return fmt.Sprintf("%s -I %s -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT", site.Tool, site.Chain)
}

// byNode reports whether the reply passes the node, where it is translated
// back.
func (x *explainer) byNode(view PodView, back Route, client netip.Addr) bool {
	peer := x.s.link(view.ReturnPeer[client])
	if x.s.isLocal(client) {
		return true
	}
	if peer == nil {
		if back.Gateway.IsValid() && x.s.isLocal(back.Gateway) {
			return true
		}
		return x.fail("answer", CodeReturnPath, nil,
			fmt.Sprintf("the pod answers by %s, which does not lead to this node, so the client gets an answer from the wrong address", back.Out),
			Advice{Text: "Masquerade clients of this network (masqAll), or let the pod's default route lead to the node."})
	}
	if peer.Master == "" || back.Gateway.IsValid() && x.s.isLocal(back.Gateway) {
		return true
	}
	// On a bridge the pod's reply to a neighbour bypasses the node, unless bridged
	// packets pass netfilter.
	name := "net/bridge/bridge-nf-call-iptables"
	if x.f == hostport.IPv6 {
		name = "net/bridge/bridge-nf-call-ip6tables"
	}
	if x.s.Sysctls[name] == "1" {
		x.warn("answer", "The pod answers %s on the bridge itself; br_netfilter lets the node translate it back.", client)
		return true
	}
	return x.fail("answer", CodeReturnPath, nil,
		fmt.Sprintf("the pod answers %s on bridge %s itself, without this node, so the client gets an answer from the wrong address", client, peer.Master),
		Advice{Text: "Let clients of the pod's own network be masqueraded (\"snat\": true), or let bridged packets pass netfilter.", Command: "sysctl -w " + strings.ReplaceAll(name, "/", ".") + "=1"})
}

// programs names the eBPF programs, which are not followed.
func (x *explainer) programs() bool {
	for _, p := range x.s.Programs {
		x.stage("ebpf", MarkWarn, "", fmt.Sprintf("%s on %s: an eBPF program (%s), which this tool does not follow.", p.Hook, p.Where, p.Name), nil)
	}
	for _, u := range x.s.Unread {
		x.unknown = true
		x.stage("unread", MarkUnknown, "", u, nil)
	}
	return true
}
