package explain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/iptables"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Check is one line of a diagnosis.
type Check struct {
	Name string `json:"name"`
	Mark Mark   `json:"mark"`
	// Text says what was found and what it means.
	Text string `json:"text"`
	// Command fixes it, "" if there is nothing to fix or no command for it.
	Command string `json:"command,omitempty"`
}

// Places holds the locations of a node's files.
type Places struct {
	// State is the plugin's state directory.
	State string
	// ConfDir holds the conflists.
	ConfDir string
	// Containerd and CRIO are configuration files or directories of the runtimes.
	Containerd, CRIO []string
}

// Records holds the records of a node.
type Records struct {
	Attachments []*hostport.Attachment
	// Rewritten is when all rules were last rewritten, the zero Time if never.
	Rewritten time.Time
	// Other is why they are of another boot or version, nil if they are not.
	// Unread is why they could not be read.
	Other, Unread error
}

// doctor collects the checks of a node.
type doctor struct {
	places Places
	s      *Snapshot
	Records
	checks []Check
	// noNFTables is why the kernel has no nf_tables, nil if it has.
	noNFTables error
	// asks is set if one of our entries asks the agent for ports.
	asks bool
}

// Doctor checks the node: kernel, tools, rules, and the configuration of the
// runtime. It changes nothing.
func (c *Collector) Doctor(ctx context.Context, places Places, r Records) ([]Check, error) {
	s := c.newSnapshot()
	if err := s.readLinks(); err != nil {
		return nil, err
	}
	c.readRules(ctx, s, hostport.Families()...)
	for _, f := range hostport.Families() {
		s.readSysctls(f)
	}
	s.Conntrack = readFill()
	d := &doctor{places: places, s: s, Records: r, noNFTables: c.nft.supported()}
	sees := !errors.Is(s.refused, fs.ErrPermission)
	d.kernel()
	d.tools(ctx)
	if sees {
		d.variants()
	}
	d.forwarding()
	if sees {
		d.policies()
	}
	d.reversePath()
	d.bridge()
	d.conntrack()
	d.conflists()
	d.runtime()
	d.agent()
	if sees {
		d.leftovers()
		d.proxy()
	}
	d.state()
	return d.checks, nil
}

func (d *doctor) say(name string, mark Mark, command, text string, args ...any) {
	d.checks = append(d.checks, Check{Name: name, Mark: mark, Text: fmt.Sprintf(text, args...), Command: command})
}

func (d *doctor) kernel() {
	var u unix.Utsname
	_ = unix.Uname(&u)
	release := unix.ByteSliceToString(u.Release[:])
	switch unread := strings.Join(d.s.Unread, " "); {
	case errors.Is(d.s.refused, fs.ErrPermission):
		d.say("kernel", MarkFail, "", "Linux %s shows its rules to processes with CAP_NET_ADMIN in the node's network namespace only: what depends on them is not checked. %s", release, unread)
		return
	case d.s.refused != nil:
		d.say("kernel", MarkFail, "", "Linux %s: %s", release, unread)
		return
	case unread != "":
		d.say("rules", MarkWarn, "", "what follows does not know all rules. %s", unread)
	}
	if d.noNFTables != nil {
		mark := MarkFail
		if d.s.variant == originLegacy {
			mark = MarkWarn
		}
		d.say("kernel", mark, "modprobe nf_tables", "Linux %s has no nf_tables, which the nftables backend and iptables-nft need: %v", release, d.noNFTables)
		return
	}
	if d.s.Conntrack.Max == 0 {
		d.say("kernel", MarkWarn, "modprobe nf_conntrack", "Linux %s; connection tracking is not loaded yet", release)
		return
	}
	if old := backend.OldKernel(); old != "" {
		d.say("kernel", MarkWarn, "", "%s", old)
		return
	}
	d.say("kernel", MarkOK, "", "Linux %s with nf_tables and connection tracking", release)
}

func (d *doctor) tools(ctx context.Context) {
	d.iptables(ctx)
	if _, err := exec.LookPath("nft"); err != nil {
		d.say("tools", MarkOK, "", "nft is not on the PATH; the nftables backend does not need it")
	} else if version, err := versionOf(ctx, "nft"); err == nil && strings.HasPrefix(version, "nftables v0.") {
		d.say("nft", MarkWarn, "", "%s cannot load what it lists of table inet hostport: leave the table out where a ruleset is saved with it, or no rule of the file will be loaded at the next boot", strings.TrimSpace(version))
	}
}

// variants checks whether both variants of iptables have rules.
func (d *doctor) variants() {
	var nft, legacy []string
	for _, t := range d.s.rules {
		if len(t.chains) == 0 {
			continue
		}
		switch t.origin {
		case originIPTNFT:
			nft = append(nft, t.family+" "+t.name)
		case originLegacy:
			legacy = append(legacy, t.family+" "+t.name)
		}
	}
	if len(nft) > 0 && len(legacy) > 0 {
		d.say("variants", MarkWarn, "update-alternatives --config iptables",
			"both variants of iptables have tables (nft: %s; legacy: %s): packets pass the rules of both, and each tool lists only its own",
			strings.Join(nft, ", "), strings.Join(legacy, ", "))
		return
	}
	d.say("variants", MarkOK, "", "one variant of iptables is in use")
}

// iptables checks the tools of the iptables backend.
func (d *doctor) iptables(ctx context.Context) {
	if err := iptables.Available(); err != nil {
		mark, pods := MarkWarn, ""
		if d.Unread != nil {
			mark, pods = MarkFail, ", and there may be pods on the other"
		} else if slices.ContainsFunc(d.Attachments, func(a *hostport.Attachment) bool { return a.Backend == backend.Iptables }) {
			mark = MarkFail
		}
		d.say("tools", mark, "apt-get install iptables", "only the nftables backend can be used%s: %v", pods, err)
		return
	}
	for _, name := range []string{"ip6tables-restore", "ip6tables-save"} {
		if _, err := exec.LookPath(name); err != nil {
			d.say("tools", MarkWarn, "apt-get install iptables", "%s is not on the PATH: the iptables backend cannot serve IPv6", name)
			break
		}
	}
	// go-iptables waits for the tool without a timeout.
	_, err := versionOf(ctx, "iptables")
	var tool *goiptables.IPTables
	if err == nil {
		tool, err = goiptables.New()
	}
	if err != nil {
		d.say("tools", MarkWarn, "", "the version of iptables is not known: %v", err)
		return
	}
	major, minor, patch := tool.GetIptablesVersion()
	variant := map[string]string{originIPTNFT: " (nf_tables)", originLegacy: " (legacy)"}[d.s.variant]
	version := fmt.Sprintf("iptables v%d.%d.%d%s", major, minor, patch, variant)
	if slices.Compare([]int{major, minor, patch}, []int{1, 8, backend.OldestIptables}) < 0 {
		d.say("tools", MarkWarn, "", "%s is older than 1.8.%d, the oldest that hostport is tested with", version, backend.OldestIptables)
		return
	}
	d.say("tools", MarkOK, "", "%s", version)
}

func (d *doctor) forwarding() {
	for _, f := range hostport.Families() {
		command := "sysctl -w net.ipv4.ip_forward=1"
		if f == hostport.IPv6 {
			command = "sysctl -w net.ipv6.conf.all.forwarding=1"
		}
		value := d.s.sysctl(f, "all", "forwarding")
		needs := slices.ContainsFunc(d.Attachments, func(a *hostport.Attachment) bool { return len(a.Forwards(f)) > 0 })
		switch {
		case value == "1":
			d.say("forwarding", MarkOK, "", "%s is forwarded", f)
		case needs:
			d.say("forwarding", MarkFail, command, "%s is not forwarded: no packet from outside gets to a pod", f)
		case d.Unread != nil:
			d.say("forwarding", MarkWarn, command, "%s is not forwarded: no packet from outside gets to a pod that has a host port in it, if there is one", f)
		default:
			d.say("forwarding", MarkWarn, command, "%s is not forwarded; no pod has a host port in it now", f)
		}
	}
}

// policies explains an external packet to each pod.
func (d *doctor) policies() {
	var found bool
	seen := map[string]bool{}
	for _, a := range d.Attachments {
		for _, f := range hostport.Families() {
			for _, fw := range a.Forwards(f) {
				p := d.s.packet(fw.Protocol, netip.AddrPortFrom(standIn(f), clientPort), netip.AddrPortFrom(fw.To.Addr(), fw.HostPort), "outside")
				p.Destination, p.Out, p.State, p.DNAT = fw.To, lookup(fw.To.Addr()).Out, StateNew, true
				on := d.s.rules.pass(hookForward, p, StateNew)
				if on.action == actionAccept || seen[on.site.String()] {
					continue
				}
				seen[on.site.String()] = true
				found = true
				d.say("forward", MarkFail, fmt.Sprintf("hostportctl explain %d/%s", fw.HostPort, fw.Protocol),
					"%s %s packets to %s (%s): see what explain says", on.site, on.action, nameOf(a), fw.To)
			}
		}
	}
	if found || d.Unread != nil {
		return
	}
	d.say("forward", MarkOK, "", "packets from outside to every recorded pod pass the forward chains")
}

func (d *doctor) reversePath() {
	var strict []string
	all := d.s.sysctl(hostport.IPv4, "all", "rp_filter")
	for _, l := range d.s.Links {
		if l.Type != "veth" && l.Name != "lo" && (all == "1" || all == "0" && d.s.sysctl(hostport.IPv4, l.Name, "rp_filter") == "1") {
			strict = append(strict, l.Name)
		}
	}
	if len(strict) > 0 {
		d.say("rp_filter", MarkWarn, "sysctl -w net.ipv4.conf.all.rp_filter=2",
			"rp_filter is strict on %s: a client whose packets come in by another interface than answers go out by is dropped", strings.Join(strict, ", "))
		return
	}
	d.say("rp_filter", MarkOK, "", "rp_filter is not strict")
}

func (d *doctor) bridge() {
	i := slices.IndexFunc(d.s.Links, func(l Link) bool { return l.Type == "bridge" })
	if i < 0 {
		d.say("br_netfilter", MarkOK, "", "no bridge on this node")
		return
	}
	if d.s.Sysctls["net/bridge/bridge-nf-call-iptables"] == "1" {
		d.say("br_netfilter", MarkOK, "", "bridged packets pass netfilter")
		return
	}
	d.say("br_netfilter", MarkOK, "", "bridged packets do not pass netfilter: pods of one bridge reach each other's host ports because they are masqueraded (snat)")
}

func (d *doctor) conntrack() {
	c := d.s.Conntrack
	if c.Max == 0 {
		return
	}
	if c.nearlyFull() {
		d.say("conntrack", MarkFail, c.raise(), "%d of %d entries are in use: new connections are dropped when it is full", c.Count, c.Max)
		return
	}
	d.say("conntrack", MarkOK, "", "%d of %d entries are in use", c.Count, c.Max)
}

// leftovers looks for rules of the portmap plugin.
func (d *doctor) leftovers() {
	var chains []string
	for _, t := range d.s.rules {
		for _, c := range t.chains {
			if componentOf(c, "") == componentPortmap && len(c.rules) > 0 && (strings.HasPrefix(c.name, "CNI-DN-") || t.name == "cni_hostport") {
				chains = append(chains, t.name+" "+c.name)
			}
		}
	}
	slices.Sort(chains)
	if len(chains) > 0 {
		const most = 4
		shown := strings.Join(chains[:min(most, len(chains))], ", ")
		d.say("portmap", MarkWarn, "hostportctl adopt", "portmap has %d chains with rules (%s): they come before ours, also for pods that are gone", len(chains), shown)
		return
	}
	d.say("portmap", MarkOK, "", "portmap left no rules")
}

// proxy reports kube-proxy's mode, recognised by its rules.
func (d *doctor) proxy() {
	modes := map[string]bool{}
	services := 0
	for _, t := range d.s.rules {
		for _, c := range t.chains {
			switch {
			case t.origin == originNFT && t.name == "kube-proxy":
				modes["nftables"] = true
			case c.name == "KUBE-SERVICES" && t.name == "nat":
				modes["iptables"] = true
				services += len(c.rules)
			}
		}
	}
	for _, l := range d.s.Links {
		if l.Name == ipvsInterface {
			modes["IPVS"] = true
		}
	}
	names := make([]string, 0, len(modes))
	for m := range modes {
		names = append(names, m)
	}
	slices.Sort(names)
	switch {
	case len(names) == 0:
		d.say("kube-proxy", MarkOK, "", "no rules of kube-proxy on this node")
	case len(names) > 1:
		d.say("kube-proxy", MarkWarn, "kube-proxy --cleanup", "rules of more than one mode of kube-proxy (%s): the older ones were not removed", strings.Join(names, ", "))
	case modes["iptables"] && services == 0:
		d.say("kube-proxy", MarkFail, "kubectl -n kube-system rollout restart daemonset kube-proxy", "the chain KUBE-SERVICES is empty: its rules were flushed")
	case modes["nftables"] && slices.ContainsFunc(d.Attachments, func(a *hostport.Attachment) bool { return a.Backend == "iptables" }):
		d.say("kube-proxy", MarkWarn, "", "kube-proxy is in nftables mode and pods are on the iptables backend: a host port may win over a Service of the same number. Use the nftables backend")
	default:
		d.say("kube-proxy", MarkOK, "", "in %s mode", names[0])
	}
}

func (d *doctor) state() {
	if d.Unread != nil {
		d.say("state", MarkFail, "", "the records could not be read: %v", d.Unread)
		return
	}
	info, err := os.Stat(filepath.Join(d.places.State, "state.db"))
	if err != nil {
		d.say("state", MarkWarn, "", "no state in %s: no pod with a host port was added here since the last boot, or dataDir is another one", d.places.State)
		return
	}
	if d.Other != nil {
		mark := MarkOK
		if len(d.Attachments) > 0 {
			mark = MarkWarn // it is unknown which version is the wrong one: no command
		}
		d.say("state", mark, "", "attachments on record: %d, in %s; %v", len(d.Attachments), d.places.State, d.Other)
		return
	}
	const seconds = "2006-01-02 15:04:05Z"
	text := fmt.Sprintf("attachments on record: %d, in %s, last changed %s", len(d.Attachments), d.places.State, info.ModTime().UTC().Format(seconds))
	if !d.Rewritten.IsZero() {
		text += ", all rules last rewritten " + d.Rewritten.UTC().Format(seconds)
	}
	d.say("state", MarkOK, "", "%s", text)
}
