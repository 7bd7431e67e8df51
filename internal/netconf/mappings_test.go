package netconf_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func withMappings(list string) []byte {
	return fmt.Appendf(nil, `{"runtimeConfig":{"portMappings":%s}}`, list)
}

func TestPortMappings(t *testing.T) {
	m := func(proto hostport.Protocol, hostIP string, host, container uint16) hostport.Mapping {
		m := hostport.Mapping{HostPort: host, ContainerPort: container, Protocol: proto}
		if hostIP != "" {
			m.HostIP = netip.MustParseAddr(hostIP)
		}
		return m
	}
	for _, tc := range []struct {
		name, list string
		want       []hostport.Mapping
	}{
		{"null", `null`, nil},
		{"empty", `[]`, nil},
		{"as the conventions write it", `[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]`, []hostport.Mapping{m(hostport.TCP, "", 8080, 80)}},
		{"as containerd writes it", `[{"HostPort":81,"ContainerPort":80,"Protocol":"tcp","HostIP":""}]`, []hostport.Mapping{m(hostport.TCP, "", 81, 80)}},
		{"no protocol", `[{"hostPort":1,"containerPort":65535}]`, []hostport.Mapping{m(hostport.TCP, "", 1, 65535)}},
		{"null protocol and host IP", `[{"hostPort":65535,"containerPort":1,"protocol":null,"hostIP":null}]`, []hostport.Mapping{m(hostport.TCP, "", 65535, 1)}},
		{"protocols", `[{"hostPort":1,"containerPort":1,"protocol":"UDP"},{"hostPort":1,"containerPort":1,"protocol":"Sctp"}]`, []hostport.Mapping{m(hostport.UDP, "", 1, 1), m(hostport.SCTP, "", 1, 1)}},
		{"host IPs", `[{"hostPort":1,"containerPort":1,"hostIP":"192.0.2.1"},{"hostPort":1,"containerPort":1,"hostIP":"2001:DB8::1"},{"hostPort":1,"containerPort":1,"hostIP":"::ffff:192.0.2.2"}]`, []hostport.Mapping{
			m(hostport.TCP, "192.0.2.1", 1, 1), m(hostport.TCP, "2001:db8::1", 1, 1), m(hostport.TCP, "192.0.2.2", 1, 1),
		}},
		{"wildcards", `[{"hostPort":1,"containerPort":1,"hostIP":"0.0.0.0"},{"hostPort":1,"containerPort":1,"hostIP":"::"}]`, []hostport.Mapping{m(hostport.TCP, "0.0.0.0", 1, 1), m(hostport.TCP, "::", 1, 1)}},
		{"doublet", `[{"hostPort":1,"containerPort":1},{"hostPort":1,"containerPort":1}]`, []hostport.Mapping{m(hostport.TCP, "", 1, 1), m(hostport.TCP, "", 1, 1)}},
		{"further keys", `[{"hostPort":1,"containerPort":1,"name":"http"}]`, []hostport.Mapping{m(hostport.TCP, "", 1, 1)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := netconf.Parse(withMappings(tc.list))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, c.Mappings, compare); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPortMappingsRefused(t *testing.T) {
	const all = "runtimeConfig.portMappings"
	for _, tc := range []struct{ list, field string }{
		{`{}`, all},
		{`"8080:80"`, all},
		{`[null]`, all + "[0].hostPort"},
		{`["8080:80"]`, all + "[0]"},
		{`[[]]`, all + "[0]"},
		{`[{}]`, all + "[0].hostPort"},
		{`[{"containerPort":80}]`, all + "[0].hostPort"},
		{`[{"hostPort":null,"containerPort":80}]`, all + "[0].hostPort"},
		{`[{"hostPort":80}]`, all + "[0].containerPort"},
		{`[{"hostPort":1,"containerPort":1},{"hostPort":0,"containerPort":80}]`, all + "[1].hostPort"},
		{`[{"hostPort":65536,"containerPort":80}]`, all + "[0].hostPort"},
		{`[{"hostPort":-1,"containerPort":80}]`, all + "[0].hostPort"},
		{`[{"hostPort":"8080","containerPort":80}]`, all + "[0].hostPort"},
		{`[{"hostPort":80.5,"containerPort":80}]`, all + "[0].hostPort"},
		{`[{"hostPort":1e5,"containerPort":80}]`, all + "[0].hostPort"},
		{`[{"hostPort":18446744073709551696,"containerPort":80}]`, all + "[0].hostPort"},
		{`[{"hostPort":true,"containerPort":80}]`, all + "[0].hostPort"},
		{`[{"hostPort":80,"containerPort":0}]`, all + "[0].containerPort"},
		{`[{"hostPort":80,"containerPort":70000}]`, all + "[0].containerPort"},
		{`[{"hostPort":80,"containerPort":80,"protocol":"icmp"}]`, all + "[0].protocol"},
		{`[{"hostPort":80,"containerPort":80,"protocol":6}]`, all + "[0].protocol"},
		{`[{"hostPort":80,"containerPort":80,"hostIP":"localhost"}]`, all + "[0].hostIP"},
		{`[{"hostPort":80,"containerPort":80,"hostIP":"192.0.2.0/24"}]`, all + "[0].hostIP"},
		{`[{"hostPort":80,"containerPort":80,"hostIP":"192.0.2.256"}]`, all + "[0].hostIP"},
		{`[{"hostPort":80,"containerPort":80,"hostIP":" 192.0.2.1"}]`, all + "[0].hostIP"},
		{`[{"hostPort":80,"containerPort":80,"hostIP":"fe80::1%eth0"}]`, all + "[0].hostIP"},
		{`[{"hostPort":80,"containerPort":80,"hostIP":"192.0.2.1 -j ACCEPT"}]`, all + "[0].hostIP"},
		{`[{"hostPort":80,"containerPort":80,"hostIP":[192,0,2,1]}]`, all + "[0].hostIP"},
		{`[{"hostPort":80,"containerPort":80,"hostIP":"255.255.255.255"}]`, all + "[0].hostIP"},
		{`[{"hostPort":80,"containerPort":80,"hostIP":"224.0.0.1"}]`, all + "[0].hostIP"},
		{`[{"hostPort":80,"containerPort":80,"hostIP":"239.255.255.255"}]`, all + "[0].hostIP"},
		{`[{"hostPort":80,"containerPort":80,"hostIP":"::ffff:224.0.0.1"}]`, all + "[0].hostIP"},
		{`[{"hostPort":80,"containerPort":80},{"hostPort":80,"containerPort":80,"protocol":"udp","hostIP":"ff02::1"}]`, all + "[1].hostIP"},
		{`[{"hostPort":80,"containerPort":80},{"hostPort":80,"containerPort":81}]`, all + "[1].hostPort"},
		{`[{"hostPort":80,"containerPort":80},{"hostPort":80,"containerPort":81,"hostIP":"::"}]`, all + "[1].hostPort"},
	} {
		_, err := netconf.Parse(withMappings(tc.list))
		wantField(t, tc.list, err, tc.field)
	}
}

func TestParsePod(t *testing.T) {
	for args, want := range map[string]hostport.Pod{
		"":                  {},
		"IgnoreUnknown=1":   {},
		";;;=;K8S_POD_NAME": {},
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=3f2a;K8S_POD_UID=u": {Namespace: "default", Name: "web-0", UID: "u"},
		"K8S_POD_NAME=a=b":                 {Name: "a=b"},
		"K8S_POD_NAME=a;K8S_POD_NAME=b":    {Name: "b"},
		"k8s_pod_name=a":                   {},
		"K8S_POD_NAME=\xff\xfe":            {Name: "_"},
		"K8S_POD_NAME= a \n-j ACCEPT\x1b[": {Name: " a \n-j ACCEPT\x1b["},
	} {
		if diff := cmp.Diff(want, netconf.ParsePod(args)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", args, diff)
		}
	}
}
