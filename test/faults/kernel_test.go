package faults

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/world"
)

// forward is one DNAT of the kernel, as text: "backend owner side -> target".
type forward string

func makeForward(backend, owner, proto, hostIP, port, to string) forward {
	return forward(fmt.Sprintf("%s %s %s:%s/%s -> %s", backend, owner, hostIP, port, proto, to))
}

// implied counts the forwards that the records stand for.
func implied(records []*hostport.Attachment) map[forward]int {
	out := map[forward]int{}
	for _, r := range records {
		for _, f := range hostport.Families() {
			for _, fw := range r.Forwards(f) {
				ip := ""
				if fw.HostIP.IsValid() {
					ip = fw.HostIP.String()
				}
				out[makeForward(r.Backend, r.Key.String(), string(fw.Protocol), ip, fmt.Sprint(fw.HostPort), fw.To.String())]++
			}
		}
	}
	return out
}

var (
	savedDNAT = regexp.MustCompile(`(?m)^-A CNI-HP-\S+(?: -d (\S+)/\d+)? -p (\w+) .*--dport (\d+) .*--comment "?([^"]*)"? -j DNAT --to-destination (\S+)$`)
	anyDNAT   = regexp.MustCompile(`(?m)^-A CNI-HP-.* -j DNAT `)
	element   = regexp.MustCompile(`(?:(\S+) \. )?(tcp|udp|sctp) \. (\d+) counter packets \d+ bytes \d+ comment "([^"]*)" : (\S+) \. (\d+)`)
	anyTarget = regexp.MustCompile(`(?:tcp|udp|sctp) \. \d+ .* : \S+ \. \d+`)
)

// programmed counts the forwards that the node's kernel has, on either backend.
func (m *machine) programmed() map[forward]int {
	m.t.Helper()
	out, err := readForwards(func(name string, args ...string) (string, error) {
		return m.Node.TryCommand("", name, args...)
	}, m.Backend == world.IptablesLegacy)
	if err != nil {
		m.t.Error(err)
	}
	return out
}

// readForwards counts the forwards that a kernel has. run starts a tool there.
func readForwards(run func(string, ...string) (string, error), legacy bool) (map[forward]int, error) {
	out := map[forward]int{}
	var errs []error
	add := func(backend, tag, proto, ip, port, to string) {
		a, ok := hostport.ParseTag(tag)
		if !ok {
			errs = append(errs, fmt.Errorf("the tag %q names nobody", tag))
		}
		out[makeForward(backend, a.Key.String(), proto, ip, port, to)]++
	}
	binary := "/usr/sbin/xtables-nft-multi"
	if legacy {
		binary = "/usr/sbin/xtables-legacy-multi"
	}
	for _, tool := range []string{"iptables-save", "ip6tables-save"} {
		text, err := run(binary, tool, "-t", "nat")
		errs = append(errs, err)
		found := savedDNAT.FindAllStringSubmatch(text, -1)
		if len(found) != len(anyDNAT.FindAllString(text, -1)) {
			errs = append(errs, fmt.Errorf("a DNAT rule is not understood:\n%s", text))
		}
		for _, f := range found {
			to, err := netip.ParseAddrPort(f[5])
			errs = append(errs, err)
			add("iptables", f[4], f[2], f[1], f[3], to.String())
		}
	}
	text, err := run("/usr/sbin/nft", "list", "table", "inet", "hostport")
	if err != nil {
		return out, errors.Join(errs...) // there is none
	}
	found := element.FindAllStringSubmatch(text, -1)
	if len(found) != len(anyTarget.FindAllString(text, -1)) {
		errs = append(errs, fmt.Errorf("an element is not understood:\n%s", text))
	}
	for _, f := range found {
		to, err := netip.ParseAddr(f[5])
		errs = append(errs, err)
		add("nftables", f[4], f[2], f[1], f[3], netip.AddrPortFrom(to, port(f[6])).String())
	}
	return out, errors.Join(errs...)
}

func port(s string) uint16 {
	var n uint16
	_, _ = fmt.Sscan(s, &n)
	return n
}

// disagreement is what differs between records and kernel, or "". Every
// invocation settles what an earlier one left, so nothing may once one has
// ended on its own.
func (m *machine) disagreement() string {
	m.t.Helper()
	var out []string
	records, pending := m.recorded()
	if pending != nil {
		out = append(out, fmt.Sprintf("a change that was begun is still not ended: %+v", pending))
	}
	if diff := cmp.Diff(implied(records), m.programmed()); diff != "" {
		out = append(out, "forwards (-recorded +kernel):\n"+diff)
	}
	localnet := "0"
	for _, r := range records {
		if r.LoopbackInterface == "cni0" {
			localnet = "1"
		}
	}
	if got := m.Node.ReadSysctl("net/ipv4/conf/cni0/route_localnet"); got != localnet {
		out = append(out, fmt.Sprintf("route_localnet is %s, want %s", got, localnet))
	}
	if len(records) == 0 {
		return strings.Join(out, "\n")
	}
	if text, err := m.control("check"); err != nil {
		for line := range strings.Lines(text) {
			if strings.Contains(line, "sandbox is gone") || strings.Contains(line, "differ") {
				continue // a lost DEL's, and the summary
			}
			out = append(out, "check: "+line)
		}
	}
	return strings.Join(out, "\n")
}

// agree fails the test when records and kernel disagree.
func (m *machine) agree(when string) {
	m.t.Helper()
	if d := m.disagreement(); d != "" {
		m.t.Fatalf("%s:\n%s", when, d)
	}
}

// unchangedBySync fails when the kernel holds anything else than a rewrite of
// everything from the records would make of it.
func (m *machine) unchangedBySync(when string) {
	m.t.Helper()
	before := m.canonical()
	if out, err := m.control("sync"); err != nil {
		m.t.Fatalf("sync: %v\n%s", err, out)
	}
	if diff := cmp.Diff(before, m.canonical()); diff != "" {
		m.t.Fatalf("%s: rules (-before sync +after):\n%s", when, diff)
	}
}

// canonical is the ruleset as a sorted list: neither the order in which
// mappings came nor that of a set's elements is of any account, nor the past.
func (m *machine) canonical() []string {
	m.t.Helper()
	r := m.Ruleset().WithoutPast()
	lines := map[string]int{}
	for _, text := range []string{r.IptablesNFT, r.Ip6tablesNFT, r.IptablesLegacy, r.Ip6tablesLegacy} {
		for line := range strings.Lines(text) {
			lines[strings.TrimSpace(line)]++
		}
	}
	for line := range strings.Lines(r.NFTables) {
		for part := range strings.SplitSeq(strings.TrimPrefix(strings.TrimSpace(line), "elements = {"), ",") {
			lines[strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(part), "}"))]++
		}
	}
	var out []string
	for _, line := range slices.Sorted(maps.Keys(lines)) {
		out = append(out, fmt.Sprintf("%s (%d)", line, lines[line]))
	}
	return out
}

// holders are the owners to whom the kernel leads a TCP port of the node.
func (m *machine) holders(tcpPort int) []string {
	m.t.Helper()
	owners := map[string]bool{}
	for f := range m.programmed() {
		fields := strings.Fields(string(f))
		if fields[2] == fmt.Sprintf(":%d/tcp", tcpPort) {
			owners[strings.TrimSuffix(fields[1], "/eth0")] = true
		}
	}
	return slices.Sorted(maps.Keys(owners))
}
