package main

import (
	"bytes"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/explain"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/golden"
)

// TestGolden compares what explain and list print at two widths of a terminal with
// the files in testdata.
func TestGolden(t *testing.T) {
	// The age must not change while it is printed, and the date is another one each
	// time.
	added := time.Now().Add(-50 * time.Hour)
	date := []byte(added.UTC().Format(time.RFC3339))
	for name, write := range map[string]func(*page){
		"explain-reaches": func(p *page) { writeStages(p, reportOK(), true) },
		"explain-dropped": func(p *page) { writeStages(p, reportDropped(), false) },
		"list":            func(p *page) { _ = writeTable(p.w, goldenRows(added)) },
		"list-wide":       func(p *page) { _ = writeWide(p.w, goldenRows(added)) },
		"trace":           func(p *page) { writeTraced(p, traced()) },
		"doctor":          func(p *page) { writeChecks(p, checks()) },
	} {
		for _, width := range []int{80, 140} {
			t.Run(name+"/"+strconv.Itoa(width), func(t *testing.T) {
				t.Setenv("COLUMNS", strconv.Itoa(width))
				var b bytes.Buffer
				write(newPage(&b))
				got := bytes.ReplaceAll(b.Bytes(), date, []byte("2006-01-02T15:04:05Z"))
				golden.Equal(t, name+"-"+strconv.Itoa(width)+".txt", string(got))
			})
		}
	}
}

func reportOK() *explain.Report {
	n := uint64(12)
	return &explain.Report{
		Version: explain.Version, Verdict: explain.Reaches, Code: explain.CodeOK,
		Question: explain.QuestionRecord{Port: 8080, Protocol: hostport.TCP, Address: "192.0.2.1", From: "192.0.2.10", Interface: "eth0"},
		Sentence: "8080/tcp on 192.0.2.1 reaches default/web (10.244.0.40:80)",
		Stages: []explain.Stage{
			{Name: "address", Mark: explain.MarkOK, Text: "192.0.2.1 is the node's own, on eth0."},
			{
				Name: "translation", Mark: explain.MarkOK, Component: "hostport", Connections: &n,
				Text: "A rule in chain CNI-HP-TCP-1F9 of iptables, table nat leads it to 10.244.0.40:80 (12 connections so far).",
				Rule: &explain.Site{Rule: `-p tcp -m tcp --dport 8080 -m comment --comment "c0ffee eth0 4026532008 podnet default/web" -j DNAT --to-destination 10.244.0.40:80`},
			},
			{Name: "ebpf", Mark: explain.MarkWarn, Text: "tc ingress on eth0: an eBPF program (cil_from_netdev), which this tool does not follow."},
			{Name: "answer", Mark: explain.MarkUnknown, Text: "A name with\x1b[31m colour is shown without it."},
		},
	}
}

func reportDropped() *explain.Report {
	return &explain.Report{
		Version: explain.Version, Verdict: explain.DoesNotReach, Code: explain.CodeForwardDropped, Predicted: explain.DoesNotReach,
		Question: explain.QuestionRecord{Port: 53, Protocol: hostport.UDP, Address: "2001:db8::1", From: "2001:db8:ffff:ffff:ffff:ffff:0:1", Assumed: true},
		Sentence: "53/udp on 2001:db8::1 does not reach kube-system/node-local-dns-with-a-long-name-6x7vq: the FORWARD policy of ip6tables is DROP and no rule accepts it",
		Stages: []explain.Stage{
			{Name: "record", Mark: explain.MarkOK, Text: "53/udp is recorded for kube-system/node-local-dns-with-a-long-name-6x7vq at [fd00:10:244::28]:53 (backend nftables)."},
			{
				Name: "forward", Mark: explain.MarkFail, Component: "unknown", Text: "The FORWARD policy of ip6tables is DROP and no rule accepts it.",
				Rule: &explain.Site{Tool: "ip6tables", Family: "ip6", Table: "filter", Chain: "FORWARD"},
			},
		},
		Observed: &explain.Observation{Text: "A packet from fd68:6f73:7470:6f72::2 was dropped on this node: connection tracking has no trace of it."},
		Advice: []explain.Advice{{
			Text:    "Accept the connections that are translated.",
			Command: "ip6tables -I FORWARD -d fd00:10:244::28 -p udp --dport 53 -m conntrack --ctstate DNAT -j ACCEPT",
		}},
	}
}

func goldenRows(added time.Time) []row {
	some, many := uint64(3), uint64(1234567)
	web := &hostport.Attachment{
		Key: hostport.Key{ContainerID: "0123456789abcdef", IfName: "eth0"}, Pod: hostport.Pod{Namespace: "default", Name: "web"},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.0.40/24"), netip.MustParsePrefix("fd00:10:244::28/64")},
		Backend:   "iptables", Network: "podnet", Sandbox: hostport.Sandbox{Path: "/run/netns/cni-1"}, AddedAt: added,
	}
	bare := &hostport.Attachment{
		Key: hostport.Key{ContainerID: "fedcba9876543210fedcba9876543210", IfName: "net1"}, Backend: "nftables",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.0.41/24")},
	}
	return []row{
		{mapping: hostport.Mapping{HostPort: 53, ContainerPort: 5353, Protocol: hostport.UDP, HostIP: netip.MustParseAddr("192.0.2.1")}, attachment: web, state: stateOK, connections: &many},
		{mapping: hostport.Mapping{HostPort: 8080, ContainerPort: 80, Protocol: hostport.TCP}, attachment: web, state: stateServiceFirst, connections: &some},
		{mapping: hostport.Mapping{HostPort: 9000, ContainerPort: 9000, Protocol: hostport.TCP}, attachment: bare},
	}
}

func traced() explain.Traced {
	site := func(family, table, chain, component, rule string) explain.Site {
		return explain.Site{Family: family, Table: table, Chain: chain, Component: component, Rule: rule}
	}
	return explain.Traced{
		From: netip.MustParseAddrPort("192.0.2.10:50558"), To: netip.MustParseAddrPort("192.0.2.1:8080"), Interface: "eth0",
		Rules: []explain.TracedRule{
			{Site: site("inet", "hostport", "hostports", "hostport", "meta nfproto ipv4 dnat to meta l4proto . th dport map @v4"), Handle: 7, Verdict: "accept"},
			{Site: site("inet", "filter", "forward", "unknown", ""), Verdict: "policy drop"},
		},
		End: "dropped by the policy of chain forward of nftables, table inet filter",
	}
}

func checks() []explain.Check {
	return []explain.Check{
		{Name: "kernel", Mark: explain.MarkOK, Text: "Linux 6.18.44."},
		{
			Name: "forwarding", Mark: explain.MarkFail, Command: "sysctl -w net.ipv4.ip_forward=1",
			Text: "IPv4 forwarding is off: packets from outside do not reach pods, and neither do those of other nodes.",
		},
	}
}

// TestColour wants colours on a terminal, and nowhere else.
func TestColour(t *testing.T) {
	t.Setenv("COLUMNS", "")
	t.Setenv("NO_COLOR", "")
	master, slave := terminal(t)
	write := func() string {
		newPage(slave).paragraph(0, 0, red, "dropped")
		b := make([]byte, 100)
		n, err := master.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(bytes.TrimRight(b[:n], "\r\n"))
	}
	if got, want := write(), red+"dropped"+reset; got != want {
		t.Errorf("on a terminal: %q, want %q", got, want)
	}
	t.Setenv("NO_COLOR", "1")
	if got := write(); got != "dropped" {
		t.Errorf("on a terminal with NO_COLOR: %q", got)
	}
	t.Setenv("NO_COLOR", "")
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	newPage(f).paragraph(0, 0, red, "dropped")
	if b, err := os.ReadFile(f.Name()); err != nil || string(b) != "dropped\n" {
		t.Errorf("in a file: %q, %v", b, err)
	}
}
