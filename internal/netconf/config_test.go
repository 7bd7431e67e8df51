package netconf_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

var compare = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}),
	cmpopts.EquateEmpty(),
}

// defaults is what an empty configuration means.
func defaults(change func(*netconf.Config)) *netconf.Config {
	c := &netconf.Config{
		DataDir:     "/run/hostport",
		LockTimeout: 30 * time.Second,
		LogLevel:    slog.LevelInfo,
		Options:     hostport.Options{SNAT: true, MarkMasqBit: 13},
	}
	if change != nil {
		change(c)
	}
	return c
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     func(*netconf.Config)
	}{
		{"nothing", `{}`, nil},
		{"null", `null`, nil},
		{"every key null", `{"cniVersion":null,"name":null,"backend":null,"snat":null,"masqAll":null,"markMasqBit":null,
			"externalSetMarkChain":null,"conditionsV4":null,"conditionsV6":null,"dataDir":null,"lockTimeout":null,
			"hostListener":null,"podPorts":null,"logLevel":null,"logFile":null,"runtimeConfig":null,"prevResult":null,
			"cni.dev/valid-attachments":null}`, nil},
		{"unknown keys", `{"type":"hostport","capabilities":{"portMappings":true},"ipam":{},"x":[1,2]}`, nil},
		{"name and version", `{"cniVersion":"1.1.0","name":"podnet"}`, func(c *netconf.Config) { c.CNIVersion, c.Name = "1.1.0", "podnet" }},
		{"backend iptables", `{"backend":"iptables"}`, func(c *netconf.Config) { c.Backend = backend.Iptables }},
		{"backend nftables", `{"backend":"nftables"}`, func(c *netconf.Config) { c.Backend = backend.Nftables }},
		{"backend in another case", `{"backend":"NFTables"}`, func(c *netconf.Config) { c.Backend = backend.Nftables }},
		{"backend empty", `{"backend":""}`, nil},
		{"snat", `{"snat":false}`, func(c *netconf.Config) { c.Options.SNAT = false }},
		{"masqAll", `{"masqAll":true}`, func(c *netconf.Config) { c.Options.MasqueradeAll = true }},
		{"lowest mark", `{"backend":"nftables","markMasqBit":0}`, func(c *netconf.Config) { c.Backend, c.Options.MarkMasqBit = backend.Nftables, 0 }},
		{"highest mark", `{"markMasqBit":31}`, func(c *netconf.Config) { c.Backend, c.Options.MarkMasqBit = backend.Iptables, 31 }},
		{"mark chain", `{"externalSetMarkChain":"KUBE-MARK-MASQ"}`, func(c *netconf.Config) {
			c.Backend, c.Options.ExternalSetMarkChain = backend.Iptables, "KUBE-MARK-MASQ"
		}},
		{"conditions", `{"conditionsV4":["!","-d","192.0.2.0/24"],"conditionsV6":[]}`, func(c *netconf.Config) {
			c.Backend, c.Options.ConditionsV4 = backend.Iptables, []string{"!", "-d", "192.0.2.0/24"}
		}},
		{"conditions of IPv6 as iptables has them", `{"conditionsV6":["-i","eth0"]}`, func(c *netconf.Config) {
			c.Backend, c.Options.ConditionsV6 = backend.Iptables, []string{"-i", "eth0"}
		}},
		{"conditions as nftables has them", `{"conditionsV4":["ip saddr != 192.0.2.0/24"],"conditionsV6":["ip6","saddr","!=","fd00::/8"]}`, func(c *netconf.Config) {
			c.Backend = backend.Nftables
			c.Options.ConditionsV4, c.Options.ConditionsV6 = []string{"ip saddr != 192.0.2.0/24"}, []string{"ip6", "saddr", "!=", "fd00::/8"}
		}},
		{"conditions of nftables, and a mark", `{"conditionsV4":["ip saddr 192.0.2.1"],"markMasqBit":5}`, func(c *netconf.Config) {
			c.Backend, c.Options.ConditionsV4, c.Options.MarkMasqBit = backend.Nftables, []string{"ip saddr 192.0.2.1"}, 5
		}},
		{"conditions of iptables on nftables", `{"backend":"nftables","conditionsV4":["-i","eth0"]}`, func(c *netconf.Config) {
			c.Backend, c.Options.ConditionsV4 = backend.Nftables, []string{"-i", "eth0"} // the backend refuses them
		}},
		{"mark null", `{"markMasqBit":null,"externalSetMarkChain":""}`, nil},
		{"data directory", `{"dataDir":"/var/lib/../lib/hostport/"}`, func(c *netconf.Config) { c.DataDir = "/var/lib/hostport" }},
		{"data directory above the root", `{"dataDir":"/../../etc"}`, func(c *netconf.Config) { c.DataDir = "/etc" }},
		{"timeout", `{"lockTimeout":"1m30s"}`, func(c *netconf.Config) { c.LockTimeout = 90 * time.Second }},
		{"timeout in seconds", `{"lockTimeout":5}`, func(c *netconf.Config) { c.LockTimeout = 5 * time.Second }},
		{"timeout in parts of a second", `{"lockTimeout":0.00001}`, func(c *netconf.Config) { c.LockTimeout = 10 * time.Microsecond }},
		{"listener", `{"hostListener":"deny"}`, func(c *netconf.Config) { c.DenyListeners = true }},
		{"ports of the agent", `{"podPorts":"agent"}`, func(c *netconf.Config) { c.AskAgent = true }},
		{"ports of the runtime", `{"podPorts":"runtime"}`, nil},
		{"listener ignored", `{"hostListener":"ignore"}`, nil},
		{"log", `{"logLevel":"DEBUG","logFile":"/var/log/hostport.log"}`, func(c *netconf.Config) {
			c.LogLevel, c.LogFile = slog.LevelDebug, "/var/log/hostport.log"
		}},
		{"log without a level", `{"logLevel":"","logFile":""}`, nil},
		{"log warn", `{"logLevel":"warn"}`, func(c *netconf.Config) { c.LogLevel = slog.LevelWarn }},
		{"log warning", `{"logLevel":"warning"}`, func(c *netconf.Config) { c.LogLevel = slog.LevelWarn }},
		{"log error", `{"logLevel":"error"}`, func(c *netconf.Config) { c.LogLevel = slog.LevelError }},
		{"case", `{"LOCKTIMEOUT":"1s","Snat":false}`, func(c *netconf.Config) { c.LockTimeout, c.Options.SNAT = time.Second, false }},
		{"a key twice: the last counts", `{"snat":true,"snat":false}`, func(c *netconf.Config) { c.Options.SNAT = false }},
		{"prevResult", `{"prevResult":{"ips":[]}}`, func(c *netconf.Config) { c.PrevResult = json.RawMessage(`{"ips":[]}`) }},
		{"valid attachments", `{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}`, func(c *netconf.Config) {
			c.Listed, c.ValidAttachments = true, []hostport.Key{{ContainerID: "a", IfName: "eth0"}}
		}},
		{"no valid attachments", `{"cni.dev/valid-attachments":[]}`, func(c *netconf.Config) { c.Listed = true }},
		{"null valid attachments", `{"cni.dev/valid-attachments":null}`, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := netconf.Parse([]byte(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(defaults(tc.want), got, compare); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct{ in, field string }{
		{``, "network configuration"},
		{`{`, "network configuration"},
		{`{} {}`, "network configuration"},
		{`[]`, "network configuration"},
		{`"x"`, "network configuration"},
		{"\xff\xfe", "network configuration"},
		{`{"cniVersion":1}`, "cniVersion"},
		{`{"name":["podnet"]}`, "name"},
		{`{"backend":"ipvs"}`, "backend"},
		{`{"backend":true}`, "backend"},
		{`{"snat":"false"}`, "snat"},
		{`{"snat":0}`, "snat"},
		{`{"masqAll":"yes"}`, "masqAll"},
		{`{"markMasqBit":-1}`, "markMasqBit"},
		{`{"markMasqBit":32}`, "markMasqBit"},
		{`{"markMasqBit":13.5}`, "markMasqBit"},
		{`{"markMasqBit":"13"}`, "markMasqBit"},
		{`{"markMasqBit":1e300}`, "markMasqBit"},
		{`{"markMasqBit":1.4e1}`, "markMasqBit"},
		{`{"markMasqBit":1e999}`, "markMasqBit"},
		{`{"markMasqBit":99999999999999999999}`, "markMasqBit"},
		{`{"markMasqBit":13,"externalSetMarkChain":"X"}`, "markMasqBit"},
		{`{"externalSetMarkChain":5}`, "externalSetMarkChain"},
		{`{"conditionsV4":"-d 192.0.2.1"}`, "conditionsV4"},
		{`{"conditionsV6":[1]}`, "conditionsV6"},
		{`{"podPorts":"crio"}`, "podPorts"},
		{`{"dataDir":"run/hostport"}`, "dataDir"},
		{`{"dataDir":"../hostport"}`, "dataDir"},
		{`{"dataDir":"/run/\u0000"}`, "dataDir"},
		{`{"dataDir":7}`, "dataDir"},
		{`{"lockTimeout":"soon"}`, "lockTimeout"},
		{`{"lockTimeout":"0s"}`, "lockTimeout"},
		{`{"lockTimeout":-1}`, "lockTimeout"},
		{`{"lockTimeout":"-1s"}`, "lockTimeout"},
		{`{"lockTimeout":1e9}`, "lockTimeout"},
		{`{"lockTimeout":"10m1s"}`, "lockTimeout"},
		{`{"lockTimeout":{}}`, "lockTimeout"},
		{`{"hostListener":"refuse"}`, "hostListener"},
		{`{"hostListener":true}`, "hostListener"},
		{`{"logLevel":"trace"}`, "logLevel"},
		{`{"logLevel":1}`, "logLevel"},
		{`{"logFile":"hostport.log"}`, "logFile"},
		{`{"logFile":"/var/log/\u0000"}`, "logFile"},
		{`{"logFile":{}}`, "logFile"},
		{`{"runtimeConfig":[]}`, "runtimeConfig"},
		{`{"runtimeConfig":"x"}`, "runtimeConfig"},
		{`{"cni.dev/valid-attachments":{}}`, "cni.dev/valid-attachments"},
		{`{"cni.dev/valid-attachments":[{"ifname":"eth0"}]}`, "cni.dev/valid-attachments"},
		{`{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"},{"containerID":"b"}]}`, "cni.dev/valid-attachments"},
		{`{"cni.dev/valid-attachments":[null]}`, "cni.dev/valid-attachments"},
		{`{"cni.dev/valid-attachments":["a"]}`, "cni.dev/valid-attachments"},
	} {
		c, err := netconf.Parse([]byte(tc.in))
		wantField(t, tc.in, err, tc.field)
		if c == nil || c.DataDir == "" || c.LockTimeout <= 0 {
			t.Errorf("%s: DEL cannot go on with %+v", tc.in, c)
		}
	}
}

// wantField fails unless err is one line that begins with the field.
func wantField(t *testing.T, in string, err error, field string) {
	t.Helper()
	var fe *netconf.FieldError
	if !errors.As(err, &fe) {
		t.Errorf("%s: error %v, want a FieldError", in, err)
		return
	}
	if fe.Field != field || !strings.HasPrefix(err.Error(), field+": ") {
		t.Errorf("%s: error %q is about %q, want %q", in, err, fe.Field, field)
	}
	if strings.ContainsFunc(fe.Error(), func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
		t.Errorf("%s: error %q holds control characters", in, fe)
	}
}

// Every wrong key is named, not only the first.
func TestParseNamesAll(t *testing.T) {
	_, err := netconf.Parse([]byte(`{"snat":1,"logLevel":"x","lockTimeout":"y","runtimeConfig":{"portMappings":[{"hostPort":0},{"containerPort":-1}]}}`))
	for _, field := range []string{
		"snat: ", "logLevel: ", "lockTimeout: ",
		"runtimeConfig.portMappings[0].hostPort: ", "runtimeConfig.portMappings[0].containerPort: ",
		"runtimeConfig.portMappings[1].hostPort: ", "runtimeConfig.portMappings[1].containerPort: ",
	} {
		if !strings.Contains(fmt.Sprint(err), field) {
			t.Errorf("error does not name %s:\n%v", field, err)
		}
	}
}

// What comes from outside is quoted and cut in errors: they end on terminals.
func TestParseErrorsArePrintable(t *testing.T) {
	hostile := `\u001b[31m\u0007\u202e` + strings.Repeat("x", 100000)
	for _, key := range []string{"snat", "markMasqBit", "conditionsV4", "lockTimeout", "runtimeConfig", "cni.dev/valid-attachments", "hostListener", "backend", "logLevel", "logFile", "dataDir"} {
		_, err := netconf.Parse(fmt.Appendf(nil, `{%q:"%s"}`, key, hostile))
		if err == nil {
			t.Errorf("%s: no error", key)
			continue
		}
		if s := err.Error(); strings.ContainsAny(s, "\x1b\x07\u202e") || len(s) > 500 {
			t.Errorf("%s: error of %d bytes: %.200q", key, len(s), s)
		}
	}
}
