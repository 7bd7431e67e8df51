package explain

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/iptables"
	"github.com/hostport-cni/hostport/internal/listener"
	"github.com/hostport-cni/hostport/internal/node"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// patience is how long the tools of iptables may take together to list all rules.
const patience = 30 * time.Second

// versionOf returns the version that a tool prints, within seconds.
func versionOf(ctx context.Context, tool string) (string, error) {
	return new(iptables.Backend).Run(ctx, tool, "", "--version")
}

// Collector reads Snapshots of the node in whose network namespace the calling
// thread is. Close frees it.
type Collector struct {
	nft      *nftReader
	sets     *setReader
	patience time.Duration // with the tools of iptables
}

// NewCollector returns a Collector.
func NewCollector() (*Collector, error) {
	r, err := newNFTReader()
	if err != nil {
		return nil, err
	}
	return &Collector{nft: r, sets: &setReader{conn: r.conn, known: map[string]setType{}}, patience: patience}, nil
}

// Close ends the Collector. Its Snapshots cannot be explained afterwards.
func (c *Collector) Close() { c.nft.close() }

// Collect reads everything that decides the fate of the question's packet. It
// fills in what the question leaves open. What cannot be read is noted in the
// snapshot, and is not an error.
func (c *Collector) Collect(ctx context.Context, q *Question, all []node.Examined) (*Snapshot, error) {
	s := c.newSnapshot()
	if err := s.readLinks(); err != nil {
		return nil, err
	}
	if q.In != "" && !slices.ContainsFunc(s.Links, func(l Link) bool { return l.Name == q.In }) {
		return nil, fmt.Errorf("the node has no interface %q: `ip link` lists those that it has", q.In)
	}
	s.complete(q)
	f := hostport.FamilyOf(q.Address)
	mine := concerned(q, all)
	// This takes the longest, most of it in other processes.
	var rules sync.WaitGroup
	rules.Go(func() { c.readRules(ctx, s, f) })
	s.readRoutes(q, f, mine)
	s.readSysctls(f)
	s.Conntrack = readFill()
	// An error means that the kernel's module is missing: there is nothing to
	// list.
	s.Flows, _ = flows(q.Protocol, netip.AddrPortFrom(q.Address, q.Port))
	s.Virtual = readVirtual()
	found, listenErr := listener.Find([]hostport.Mapping{{HostIP: q.Address, HostPort: q.Port, Protocol: q.Protocol}})
	s.Listeners = found
	for _, a := range mine {
		s.Pods[a.Key] = s.viewPod(q, a)
	}
	s.readPrograms(q)
	rules.Wait()
	if listenErr != nil {
		s.Unread = append(s.Unread, fmt.Sprintf("The node's sockets could not be listed: %v.", listenErr))
	}
	return s, nil
}

func (c *Collector) newSnapshot() *Snapshot {
	return &Snapshot{
		Routes: map[netip.Addr]Route{}, Sysctls: map[string]string{}, Pods: map[hostport.Key]PodView{}, sets: c.sets.test,
	}
}

// readRules reads the rules that packets of the given families pass: of
// nf_tables from the kernel, of both variants of iptables from their tools.
// What could not be read is noted in the snapshot.
func (c *Collector) readRules(ctx context.Context, s *Snapshot, families ...hostport.Family) {
	var wait sync.WaitGroup
	saved, variants, notes := make([]ruleset, len(families)), make([]string, len(families)), make([][]string, len(families))
	ctx, cancel := context.WithTimeoutCause(ctx, c.patience, fmt.Errorf("no answer in %s", c.patience))
	defer cancel()
	for i, f := range families {
		wait.Go(func() { saved[i], variants[i], notes[i] = saveAll(ctx, f) })
	}
	// The rules of iptables are listed by its tools, which takes about as long.
	native, err := c.nft.read(families...)
	if err == nil {
		err = native.fill(func(t *table) bool { return !t.compat() })
	}
	wait.Wait()
	s.rules = slices.Concat(saved...)
	if len(variants) > 0 {
		s.variant = variants[0]
	}
	s.Unread = append(s.Unread, slices.Concat(notes...)...)
	if err == nil {
		err = native.fill(func(t *table) bool { return t.compat() && s.rules.index(t) < 0 })
	}
	if err != nil {
		s.refused = err
		s.Unread = append(s.Unread, fmt.Sprintf("The rules of nf_tables could not be read: %v.", err))
	}
	s.rulesHidden = len(s.Unread) > 0
	if err != nil {
		return
	}
	s.rules = merge(native.all, s.rules)
	for _, t := range native.all {
		if t.compat() && t.uses("match", "target") {
			s.rulesHidden = true
			s.Unread = append(s.Unread, fmt.Sprintf(
				"Table %s %s was written by iptables, and iptables-save does not list it here: some of its rules cannot be read.", t.family, t.name))
		}
	}
}

// concerned returns the attachments that map the port of the question, on any
// address.
func concerned(q *Question, all []node.Examined) []node.Examined {
	var out []node.Examined
	for _, a := range all {
		if slices.ContainsFunc(a.Mappings, q.Maps) {
			out = append(out, a)
		}
	}
	return out
}

// merge replaces tables read from the kernel by the same tables as printed by
// iptables-save.
func merge(native, saved ruleset) ruleset {
	var out ruleset
	for _, t := range native {
		i := saved.index(t)
		if i < 0 {
			out = append(out, t)
			continue
		}
		for name, c := range saved[i].chains {
			if k := t.chains[name]; k != nil && len(k.handles) == len(c.rules) {
				c.handles = k.handles
			}
		}
	}
	return append(out, saved...)
}

// index finds the table that iptables-nft-save printed for t.
func (rs ruleset) index(t *table) int {
	for i, s := range rs {
		if s.origin == originIPTNFT && s.family == t.family && s.name == t.name {
			return i
		}
	}
	return -1
}

// uses reports whether a rule has one of these expressions.
func (t *table) uses(names ...string) bool {
	for _, c := range t.chains {
		for _, r := range c.rules {
			n, ok := r.(*nftRule)
			if !ok {
				continue
			}
			for _, e := range n.expressions() {
				if slices.Contains(names, e.name) {
					return true
				}
			}
		}
	}
	return false
}

// saveAll lists the rules of the variants of iptables that exist. variant is
// the origin of the rules that iptables-save lists, "" if it lists none.
func saveAll(ctx context.Context, f hostport.Family) (out ruleset, variant string, notes []string) {
	tool := "iptables"
	if f == hostport.IPv6 {
		tool = "ip6tables"
	}
	plain, plainErr := save(ctx, tool+"-save")
	origin := originIPTNFT
	if plainErr == nil {
		version, err := versionOf(ctx, tool)
		if err == nil && !strings.Contains(version, "nf_tables") {
			origin = originLegacy
		}
		variant = origin
	}
	add := func(origin, text string) { out = append(out, parseSave(origin, f, text)...) }
	if plainErr == nil {
		add(origin, plain)
	}
	if plainErr != nil && !errors.Is(plainErr, backend.ErrMissing) {
		notes = append(notes, fmt.Sprintf("The rules of %s could not be listed: %v.", tool, plainErr))
	}
	if plainErr != nil || origin != originIPTNFT {
		if text, err := save(ctx, tool+"-nft-save"); err == nil {
			add(originIPTNFT, text)
		}
	}
	if (plainErr != nil || origin != originLegacy) && len(iptables.LegacyTables(f)) > 0 {
		text, err := save(ctx, tool+"-legacy-save")
		if err != nil {
			notes = append(notes, fmt.Sprintf("The kernel has tables of %s-legacy, which could not be listed: %v.", tool, err))
		} else {
			add(originLegacy, text)
		}
	}
	return out, variant, notes
}

// save lists rules with their counters, and retries once: iptables-nft-save
// fails if another program changes the rules while it reads.
func save(ctx context.Context, tool string) (string, error) {
	tools := &iptables.Backend{Wait: patience}
	out, err := tools.Run(ctx, tool, "", "-c")
	if err != nil && !errors.Is(err, backend.ErrMissing) && ctx.Err() == nil {
		return tools.Run(ctx, tool, "", "-c")
	}
	return out, err
}

// LegacyInUse reports whether iptables-legacy has tables on the node, of either
// family.
func LegacyInUse() bool {
	return slices.ContainsFunc(hostport.Families(), func(f hostport.Family) bool { return len(iptables.LegacyTables(f)) > 0 })
}

func (s *Snapshot) readLinks() error {
	links, err := netlinksafe.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := netlinksafe.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		a := l.Attrs()
		out := Link{Index: a.Index, Name: a.Name, Type: l.Type(), Master: names[a.MasterIndex], Up: a.Flags&net.FlagUp != 0}
		for _, addr := range addrs {
			if addr.LinkIndex == a.Index {
				ip, _ := netip.AddrFromSlice(addr.IP)
				bits, _ := addr.Mask.Size()
				out.Addresses = append(out.Addresses, netip.PrefixFrom(ip.Unmap(), bits))
			}
		}
		if a.Xdp != nil && a.Xdp.Attached {
			s.Programs = append(s.Programs, Program{Hook: "XDP", Where: a.Name, Name: programName(a.Xdp.ProgId)})
		}
		s.Links = append(s.Links, out)
	}
	return nil
}

// readSysctls reads the parameters that decide about forwarding.
func (s *Snapshot) readSysctls(f hostport.Family) {
	names := []string{
		"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables",
	}
	for _, l := range append([]Link{{Name: "all"}}, s.Links...) {
		for _, name := range []string{"forwarding", "rp_filter", "route_localnet"} {
			names = append(names, sysctlPath(f, l.Name, name))
		}
	}
	for _, name := range names {
		if b, err := os.ReadFile("/proc/sys/" + name); err == nil {
			s.Sysctls[name] = strings.TrimSpace(string(b))
		}
	}
}

func readFill() Fill {
	read := func(name string) int {
		b, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return n
	}
	return Fill{Count: read("nf_conntrack_count"), Max: read("nf_conntrack_max")}
}

// viewPod looks into a pod's network namespace.
func (s *Snapshot) viewPod(q *Question, a node.Examined) PodView {
	if a.Dead {
		return PodView{Hidden: "its sandbox is gone"}
	}
	f := hostport.FamilyOf(q.Address)
	pod, ok := a.Address(f)
	if !ok {
		return PodView{Hidden: "it has no address of the family"}
	}
	v := PodView{Return: map[netip.Addr]Route{}, ReturnPeer: map[netip.Addr]string{}}
	clients := []netip.Addr{q.From}
	if r := s.Routes[pod.Addr()]; r.Out != "" {
		if masqueraded := s.sourceFor(r.Out, pod.Addr()); masqueraded.IsValid() {
			clients = append(clients, masqueraded)
		}
	}
	if q.FromNode && q.Address.IsLoopback() {
		clients = clients[1:]
	}
	// List sockets on all addresses, to report those on 127.0.0.1.
	var ports []hostport.Mapping
	for _, m := range a.Mappings {
		if q.Maps(m) {
			ports = append(ports, hostport.Mapping{HostPort: m.ContainerPort, Protocol: m.Protocol})
		}
	}
	peers := map[string]int{}
	err := ns.WithNetNSPath(a.Sandbox.Path, func(ns.NetNS) error {
		links, err := netlinksafe.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Type() == "veth" {
				peers[l.Attrs().Name] = l.Attrs().ParentIndex
			}
		}
		for _, c := range clients {
			v.Return[c] = lookup(c)
		}
		v.Listeners, err = listener.Find(ports)
		return err
	})
	if err != nil {
		return PodView{Hidden: err.Error()}
	}
	name := func(index int) string {
		for _, l := range s.Links {
			if index != 0 && l.Index == index && l.Type == "veth" {
				return l.Name
			}
		}
		return ""
	}
	v.Peer = name(peers[a.IfName])
	for c, r := range v.Return {
		v.ReturnPeer[c] = name(peers[r.Out])
	}
	return v
}
