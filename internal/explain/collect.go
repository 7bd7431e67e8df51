package explain

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/listener"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Run starts a program and returns what it printed.
type Run func(ctx context.Context, program string, args ...string) (string, error)

// Collector reads Snapshots of the node in whose network namespace the calling
// thread is. Close frees it.
type Collector struct {
	run  Run
	nft  *nftReader
	sets *setReader
}

// NewCollector returns a Collector that starts programs with run.
func NewCollector(run Run) (*Collector, error) {
	r, err := newNFTReader()
	if err != nil {
		return nil, err
	}
	return &Collector{run: run, nft: r, sets: &setReader{conn: r.conn, known: map[string]setType{}}}, nil
}

// Close ends the Collector. Snapshots of its cannot be explained afterwards.
func (c *Collector) Close() { c.nft.close() }

// Collect reads what decides about the packet of a question. It fills in what
// the question leaves open. What cannot be read is noted in the snapshot, and is
// no error.
func (c *Collector) Collect(ctx context.Context, q *Question, all []Attachment) (*Snapshot, error) {
	s := c.newSnapshot()
	if err := s.readLinks(); err != nil {
		return nil, err
	}
	s.complete(q)
	f := hostport.FamilyOf(q.Address)
	mine := concerned(q, all)
	// Listings of iptables take the longest, and are of other processes.
	var rules sync.WaitGroup
	var saved ruleset
	var notes []string
	rules.Go(func() { saved, notes = c.saveAll(ctx, f) })
	native, err := c.nft.read()
	s.readRoutes(q, f, mine)
	s.readSysctls(f)
	s.Conntrack = readFill()
	s.Virtual = readVirtual()
	found, listenErr := listener.Find(ctx, []hostport.Mapping{{HostIP: q.Address, HostPort: q.Port, Protocol: q.Protocol}})
	s.Listeners = found
	for _, a := range mine {
		s.Pods[a.Key] = s.viewPod(ctx, q, a)
	}
	s.readPrograms(q)
	rules.Wait()
	if listenErr != nil {
		s.Unread = append(s.Unread, fmt.Sprintf("The node's sockets could not be listed: %v.", listenErr))
	}
	s.take(native, err, saved, notes)
	return s, nil
}

func (c *Collector) newSnapshot() *Snapshot {
	return &Snapshot{
		Routes: map[netip.Addr]Route{}, Sysctls: map[string]string{}, Pods: map[hostport.Key]PodView{}, sets: c.sets.test,
	}
}

// take puts together what the kernel and the tools of iptables said, and notes
// what they did not.
func (s *Snapshot) take(native ruleset, err error, saved ruleset, notes []string) {
	if err != nil {
		notes = append([]string{fmt.Sprintf("The rules of nf_tables could not be read: %v.", err)}, notes...)
	}
	s.Unread = append(s.Unread, notes...)
	s.rulesHidden = len(notes) > 0
	s.rules = merge(native, saved)
	for _, t := range s.rules {
		if t.origin == originNFT && t.compat() && t.uses("match", "target") {
			s.rulesHidden = true
			s.Unread = append(s.Unread, fmt.Sprintf(
				"Table %s %s was written by iptables, and iptables-save does not list it here: some of its rules cannot be read.", t.family, t.name))
		}
	}
}

// concerned are the attachments that map the port of the question, whatever the
// address.
func concerned(q *Question, all []Attachment) []Attachment {
	var out []Attachment
	for _, a := range all {
		for _, m := range a.Mappings {
			if m.HostPort == q.Port && m.Protocol == q.Protocol {
				out = append(out, a)
				break
			}
		}
	}
	return out
}

// merge puts the tables that iptables-save printed in the place of the same
// tables read from the kernel.
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

// saveAll lists the rules of both variants of iptables, those that exist.
func (c *Collector) saveAll(ctx context.Context, f hostport.Family) (ruleset, []string) {
	tool := "iptables"
	if f == hostport.IPv6 {
		tool = "ip6tables"
	}
	plain, plainErr := c.list(ctx, tool+"-save")
	origin := originIPTNFT
	if plainErr == nil {
		version, err := c.run(ctx, tool, "--version")
		if err == nil && !strings.Contains(version, "nf_tables") {
			origin = originLegacy
		}
	}
	var out ruleset
	var notes []string
	add := func(origin, text string) { out = append(out, parseSave(origin, f, text)...) }
	if plainErr == nil {
		add(origin, plain)
	}
	if plainErr != nil && !errors.Is(plainErr, exec.ErrNotFound) {
		notes = append(notes, fmt.Sprintf("The rules of %s could not be listed: %v.", tool, plainErr))
	}
	if plainErr != nil || origin != originIPTNFT {
		if text, err := c.list(ctx, tool+"-nft-save"); err == nil {
			add(originIPTNFT, text)
		}
	}
	if (plainErr != nil || origin != originLegacy) && legacyTables(f) {
		text, err := c.list(ctx, tool+"-legacy-save")
		if err != nil {
			notes = append(notes, fmt.Sprintf("The kernel has tables of %s-legacy, which could not be listed: %v.", tool, err))
		} else {
			add(originLegacy, text)
		}
	}
	return out, notes
}

// list runs a tool that lists rules with their counters, a second time if it fails: iptables-nft-save
// gives up where others change the rules while it reads.
func (c *Collector) list(ctx context.Context, tool string) (string, error) {
	out, err := c.run(ctx, tool, "-c")
	if err != nil && !errors.Is(err, exec.ErrNotFound) && ctx.Err() == nil {
		return c.run(ctx, tool, "-c")
	}
	return out, err
}

// LegacyInUse reports whether iptables-legacy has tables on the node, of either
// family.
func LegacyInUse() bool { return legacyTables(hostport.IPv4) || legacyTables(hostport.IPv6) }

// legacyTables reports whether iptables-legacy has tables in this namespace.
func legacyTables(f hostport.Family) bool {
	name := "ip_tables_names"
	if f == hostport.IPv6 {
		name = "ip6_tables_names"
	}
	b, err := os.ReadFile("/proc/thread-self/net/" + name)
	return err == nil && len(b) > 0
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

// Stand-ins for a client of which nothing is known.
var (
	standInV4 = netip.AddrFrom4([4]byte{203, 0, 113, 1})               //nolint:gochecknoglobals // a constant
	standInV6 = netip.MustParseAddr("2001:db8:ffff:ffff:ffff:ffff::1") //nolint:gochecknoglobals // a constant
)

// standIn is an address that nobody has.
func standIn(f hostport.Family) netip.Addr {
	if f == hostport.IPv6 {
		return standInV6
	}
	return standInV4
}

// complete fills in what the question leaves open: the node's first address, and
// a client that stands for those outside.
func (s *Snapshot) complete(q *Question) {
	if !q.Address.IsValid() {
		q.Address = s.mainAddress(q)
	}
	if q.FromNode {
		q.From, q.In = q.Address, ""
		return
	}
	if q.From.IsValid() {
		return
	}
	q.Assumed = true
	q.From = standIn(hostport.FamilyOf(q.Address))
	if r := lookup(q.From); r.Err == "" {
		return
	}
	// No default route: a neighbour in the address's network.
	if l := s.holder(q.Address); l != nil {
		for _, p := range l.Addresses {
			if p.Addr() != q.Address || p.Bits() >= p.Addr().BitLen()-1 {
				continue
			}
			addr := p.Masked().Addr().Next()
			for s.isLocal(addr) {
				addr = addr.Next()
			}
			q.From = addr
		}
	}
}

// mainAddress is the address that the node itself would use towards the outside.
func (s *Snapshot) mainAddress(q *Question) netip.Addr {
	v6 := q.From.IsValid() && q.From.Is6()
	to := q.From
	if !to.IsValid() {
		to = standInV4
	}
	if r := lookup(to); r.Err == "" && r.Source.IsValid() && !s.isLocal(to) {
		return r.Source
	}
	for _, l := range s.Links {
		for _, p := range l.Addresses {
			if p.Addr().Is6() == v6 && l.Name != "lo" && l.Up && l.Type != "bridge" && !p.Addr().IsLinkLocalUnicast() {
				return p.Addr()
			}
		}
	}
	if v6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// lookup asks the kernel for a route.
func lookup(to netip.Addr) Route {
	routes, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{})
	if err != nil || len(routes) == 0 {
		return Route{Err: routeError(err)}
	}
	r := routes[0]
	out := Route{}
	out.Gateway, _ = netip.AddrFromSlice(r.Gw)
	out.Source, _ = netip.AddrFromSlice(r.Src)
	out.Gateway, out.Source = out.Gateway.Unmap(), out.Source.Unmap()
	if via, ok := r.Via.(*netlink.Via); ok {
		out.Gateway, _ = netip.AddrFromSlice(via.Addr)
	}
	if l, err := net.InterfaceByIndex(r.LinkIndex); err == nil {
		out.Out = l.Name
	}
	if match, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true}); err == nil && len(match) > 0 {
		out.Default = match[0].Dst == nil || isDefault(match[0].Dst)
	}
	return out
}

func isDefault(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0
}

func routeError(err error) string {
	switch {
	case err == nil:
		return "no route"
	case errors.Is(err, unix.ENETUNREACH):
		return "network is unreachable"
	case errors.Is(err, unix.EHOSTUNREACH):
		return "an unreachable route"
	case errors.Is(err, unix.EINVAL):
		return "a blackhole route"
	case errors.Is(err, unix.EACCES):
		return "a prohibiting route"
	default:
		return err.Error()
	}
}

func (s *Snapshot) readRoutes(q *Question, f hostport.Family, mine []Attachment) {
	s.Routes[q.From] = lookup(q.From)
	for _, a := range mine {
		if pod, ok := a.Address(f); ok {
			s.Routes[pod.Addr()] = lookup(pod.Addr())
		}
	}
	if q.In == "" && !q.FromNode {
		q.In = s.incoming(q)
	}
}

// incoming is the interface by which the client's packets are expected: that of
// a network that both are in, or the one that has the address; otherwise the one
// that leads to the client.
func (s *Snapshot) incoming(q *Question) string {
	if l := s.onLink(q.From); l != nil {
		return l.Name
	}
	route := s.Routes[q.From]
	l := s.holder(q.Address)
	if l == nil || l.Name == "lo" || l.Type == "dummy" || l.Type == "bridge" || route.Gateway.IsValid() && !route.Default {
		if route.Out != "" {
			return route.Out
		}
	}
	if l == nil {
		return ""
	}
	return l.Name
}

// readSysctls reads what decides about forwarding.
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
func (s *Snapshot) viewPod(ctx context.Context, q *Question, a Attachment) PodView {
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
	var ports []hostport.Mapping
	for _, m := range a.Mappings {
		if m.HostPort == q.Port && m.Protocol == q.Protocol {
			ports = append(ports, hostport.Mapping{HostIP: pod.Addr(), HostPort: m.ContainerPort, Protocol: m.Protocol})
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
		// Sockets on any address are wanted, to tell of those on 127.0.0.1.
		for i := range ports {
			ports[i].HostIP = netip.Addr{}
		}
		v.Listeners, err = listener.Find(ctx, ports)
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
