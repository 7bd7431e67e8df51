package nftables

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// comments returns the conditions that rules are for.
func comments(rules []rule) (out []string) {
	for _, r := range rules {
		out = append(out, r.comment)
	}
	return slices.Compact(out)
}

func TestParseConditions(t *testing.T) {
	tests := []struct {
		text   string
		family hostport.Family
		want   []string
	}{
		{"ip saddr 10.0.0.0/8", hostport.IPv4, []string{"ip saddr 10.0.0.0/8"}},
		{"ip saddr != 10.1.2.3/8", hostport.IPv4, []string{"ip saddr != 10.0.0.0/8"}},
		{"ip daddr ne 10.96.0.0/12", hostport.IPv4, []string{"ip daddr != 10.96.0.0/12"}},
		{"ip daddr == 192.0.2.1", hostport.IPv4, []string{"ip daddr 192.0.2.1/32"}},
		{"ip saddr !={10.0.0.0/8,192.168.0.0/16}", hostport.IPv4, []string{"ip saddr != { 10.0.0.0/8, 192.168.0.0/16 }"}},
		{"ip6 saddr fd00::/8", hostport.IPv6, []string{"ip6 saddr fd00::/8"}},
		{"ip6 daddr { fd00::1, fd00::2 }", hostport.IPv6, []string{"ip6 daddr { fd00::1/128, fd00::2/128 }"}},
		{`iifname "eth0"`, hostport.IPv4, []string{"iifname eth0"}},
		{`meta iifname != "veth*"`, hostport.IPv6, []string{"iifname != veth*"}},
		{"iifname { eth0, eth1.100 }", hostport.IPv4, []string{"iifname { eth0, eth1.100 }"}},
		{"meta mark 0x2000", hostport.IPv4, []string{"meta mark 0x2000"}},
		{"meta mark != 1", hostport.IPv4, []string{"meta mark != 0x1"}},
		{"mark and 0xff == 0x10", hostport.IPv4, []string{"meta mark & 0xff == 0x10"}},
		{"meta mark & 0xff != 16", hostport.IPv4, []string{"meta mark & 0xff != 0x10"}},
		{"meta mark != 0x1/0x1", hostport.IPv4, []string{"meta mark & 0x1 != 0x1"}},
		{"meta mark { 1, 2 }", hostport.IPv4, []string{"meta mark { 0x1, 0x2 }"}},
		{"mark & 3 ne {1,2}", hostport.IPv4, []string{"meta mark & 0x3 != { 0x1, 0x2 }"}},
		{"\tip saddr 10.0.0.0/8  iifname eth0 ", hostport.IPv4, []string{"ip saddr 10.0.0.0/8", "iifname eth0"}},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			rules, err := parseConditions([]string{tt.text}, tt.family)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, comments(rules)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// portmap takes a condition as a list of nft's words.
func TestParseWordLists(t *testing.T) {
	for _, texts := range [][]string{
		{"ip", "saddr", "!=", "{", "10.0.0.0/8,", "192.0.2.1", "}", "iifname", "eth0"},
		{"ip saddr", "!= { 10.0.0.0/8, 192.0.2.1 } iifname eth0"},
		{"ip saddr != { 10.0.0.0/8, 192.0.2.1 }", "iifname eth0"},
		{"ip saddr != { 10.0.0.0/8, 192.0.2.1 }", "iifname", "eth0"},
		{"ip saddr != { 10.0.0.0/8, 192.0.2.1 } iifname eth0"},
	} {
		rules, err := parseConditions(texts, hostport.IPv4)
		if err != nil {
			t.Errorf("%q: %v", texts, err)
			continue
		}
		if diff := cmp.Diff([]string{"ip saddr != { 10.0.0.0/8, 192.0.2.1/32 }", "iifname eth0"}, comments(rules)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", texts, diff)
		}
	}
	err := new(Backend).Validate(hostport.Options{ConditionsV4: []string{"ip", "saddr", "fd00::1"}})
	if err == nil || !strings.Contains(err.Error(), `"ip saddr fd00::1"`) {
		t.Errorf("the error does not quote the words: %v", err)
	}
}

// refused are texts that nft may take and we do not, and texts that nobody
// should.
var refused = []string{
	"accept", "tcp dport 80", "ip saddr", "ip saddr !=", "ip", "ip protocol tcp", "ip6 saddr fd00::/8",
	"ip saddr 10.0.0.0/33", "ip saddr 300.0.0.1", "ip saddr fd00::1", "ip saddr ::ffff:10.0.0.1", "ip saddr 0.0.0.0/0",
	"ip saddr 10.0.0.1-10.0.0.9", "ip saddr @others", "ip saddr { }", "ip saddr { 10.0.0.1", "ip saddr { 10.0.0.1 10.0.0.2 }",
	"ip saddr 10.0.0.0/8 counter", "ip saddr 10.0.0.0/8; drop", "ip saddr 10.0.0.0/8\ndrop", "ip saddr 10.0.0.0/8 } chain x {",
	"iifname", "iifname eq", "iifname ne", "iifname == eq", `iifname "ne"`, `iifname "eth0`, `iifname "et h0"`, "iifname abcdefghijklmnop", "iifname *", "iifname eth0*0", `"iifname" eth0`,
	"iifname eth0\x00", "iifname \x1b[31m", "iif eth0", "meta oifname eth0", "meta mark", "meta mark x", "meta mark 0x100000000",
	"meta mark & 0 == 0", "meta mark { 1, 2/3 }", "mark & 1 { 1, 2 }", "meta mark & 0x1 == 0x2", "meta mark & 1 == 1/1", "meta mark set 1", "= 1", "! 1",
	"ip saddr { " + strings.Repeat("10.0.0.1, ", 20) + "10.0.0.2 }",
}

func TestValidateRefuses(t *testing.T) {
	b := new(Backend)
	for _, text := range refused {
		err := b.Validate(hostport.Options{ConditionsV4: []string{"iifname eth0", text}})
		if err == nil {
			t.Errorf("%q was taken", text)
			continue
		}
		if !strings.Contains(err.Error(), "conditionsV4") || !strings.Contains(err.Error(), fmt.Sprintf("%q", "iifname eth0 "+text)) {
			t.Errorf("%q: the error names no key or does not quote it: %v", text, err)
		}
		if strings.ContainsAny(err.Error(), "\x1b\x00\n") {
			t.Errorf("control characters in the error %q", err)
		}
	}
	for _, texts := range [][]string{{""}, {" ", "\t"}} {
		if b.Validate(hostport.Options{ConditionsV4: texts}) == nil {
			t.Errorf("%q was taken", texts)
		}
	}
	err := b.Validate(hostport.Options{ConditionsV6: []string{"ip saddr 10.0.0.0/8"}})
	if err == nil || !strings.Contains(err.Error(), "conditionsV6") {
		t.Errorf("an IPv4 match in conditionsV6: %v", err)
	}
	err = b.Validate(hostport.Options{ExternalSetMarkChain: "KUBE-MARK-MASQ"})
	if err == nil || !strings.Contains(err.Error(), "externalSetMarkChain") {
		t.Errorf("externalSetMarkChain: %v", err)
	}
	if err := b.Validate(hostport.Options{SNAT: true, MarkMasqBit: 13}); err != nil {
		t.Errorf("plain options: %v", err)
	}
}

// What was understood reads back as the same, fits a comment and has no
// character that would end one.
func FuzzParseConditions(f *testing.F) {
	for _, text := range refused {
		f.Add(text, true)
	}
	for _, text := range []string{
		"ip saddr != { 10.0.0.0/8, 192.168.0.0/16 } iifname eth0", `meta iifname != "veth*"`, "meta mark & 0xff != 16", "mark 1/1",
	} {
		f.Add(text, true)
	}
	f.Add("ip6 saddr fd00::/8 ip6 daddr != ::1", false)
	f.Fuzz(func(t *testing.T, text string, v4 bool) {
		family := hostport.IPv6
		if v4 {
			family = hostport.IPv4
		}
		rules, err := parseConditions([]string{text}, family)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\x1b\x00\n\r") {
				t.Errorf("control characters in the error %q", err)
			}
			return
		}
		for _, s := range comments(rules) {
			if len(s) > maxComment || strings.ContainsAny(s, "\"\\\n\r\x00\x1b") {
				t.Errorf("unfit for a comment: %q", s)
			}
			again, err := parseConditions([]string{s}, family)
			if diff := cmp.Diff([]string{s}, comments(again)); diff != "" || err != nil {
				t.Errorf("%q read back (-want +got): %v\n%s", s, err, diff)
			}
		}
	})
}
