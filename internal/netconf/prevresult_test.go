package netconf_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/netconf"
)

// Versions whose results list interfaces; before 1.0.0 each address tells its
// family, and the result need not tell its version.
var (
	early  = []string{"0.3.0", "0.3.1", "0.4.0"}
	recent = []string{"1.0.0", "1.1.0"}
)

func TestPodAddresses(t *testing.T) {
	const interfaces = `"interfaces":[{"name":"cni0"},{"name":"veth1"},{"name":"eth0","sandbox":"/run/netns/a"},{"name":"net1","sandbox":"/run/netns/a"}]`
	for _, tc := range []struct {
		name, result string
		want         []string
	}{
		{"both families, IPv6 first", interfaces + `,"ips":[
			{"version":"6","interface":2,"address":"fd00::40/64"},
			{"version":"4","interface":2,"address":"10.244.0.40/24"}]`, []string{"10.244.0.40/24", "fd00::40/64"}},
		{"the first of each family counts", interfaces + `,"ips":[
			{"version":"4","interface":2,"address":"10.244.0.40/24"},
			{"version":"4","interface":2,"address":"10.244.0.41/24"}]`, []string{"10.244.0.40/24"}},
		{"another interface of the sandbox", interfaces + `,"ips":[
			{"version":"4","interface":3,"address":"10.245.0.40/24"},
			{"version":"4","interface":2,"address":"10.244.0.40/24"}]`, []string{"10.244.0.40/24"}},
		{"an interface of the node", interfaces + `,"ips":[
			{"version":"4","interface":0,"address":"10.244.0.1/24"},
			{"version":"4","interface":2,"address":"10.244.0.40/24"}]`, []string{"10.244.0.40/24"}},
		{"no interface named", `"ips":[{"version":"4","address":"10.244.0.40/32"}]`, []string{"10.244.0.40/32"}},
		{"null interface", interfaces + `,"ips":[{"version":"6","interface":null,"address":"fd00::40/128"}]`, []string{"fd00::40/128"}},
		{"a link-local address ahead of another", `"ips":[{"version":"6","address":"fe80::40/64"},{"version":"6","address":"fd00::40/64"}]`, []string{"fd00::40/64"}},
		{"a link-local address of IPv4", `"ips":[{"version":"4","address":"169.254.172.2/22"}]`, []string{"169.254.172.2/22"}},
		{"more than we read", interfaces + `,"ips":[{"version":"4","interface":2,"address":"10.244.0.40/24","gateway":"10.244.0.1"}],
			"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.96.0.10"]},"x":1`, []string{"10.244.0.40/24"}},
	} {
		for _, version := range append(append([]string{}, early...), recent...) {
			t.Run(tc.name+"/"+version, func(t *testing.T) {
				results := []string{fmt.Sprintf(`{"cniVersion":%q,%s}`, version, tc.result)}
				if version < "1" {
					results = append(results, "{"+tc.result+"}")
				}
				for _, result := range results {
					c := &netconf.Config{CNIVersion: version, PrevResult: json.RawMessage(result)}
					got, err := c.PodAddresses("eth0")
					if err != nil {
						t.Fatalf("%s: %v", result, err)
					}
					var want []netip.Prefix
					for _, p := range tc.want {
						want = append(want, netip.MustParsePrefix(p))
					}
					if diff := cmp.Diff(want, got, compare); diff != "" {
						t.Errorf("%s (-want +got):\n%s", result, diff)
					}
				}
			})
		}
	}
}

func TestPodAddressesRefused(t *testing.T) {
	for _, tc := range []struct{ version, result, field string }{
		{"1.1.0", ``, "prevResult"},
		{"1.1.0", `[]`, "prevResult"},
		{"1.1.0", `"x"`, "prevResult"},
		{"1.1.0", `{"ips":"x"}`, "prevResult.ips"},
		{"1.1.0", `{"ips":["x"]}`, "prevResult.ips[0]"},
		{"1.1.0", `{"interfaces":["x"],"ips":[{"address":"10.0.0.1/24","interface":0}]}`, "prevResult.interfaces[0]"},
		{"1.1.0", `{"ips":[{"address":"10.0.0.1/24","interface":2.0}]}`, "prevResult.ips[0].interface"},
		{"1.1.0", `{"ips":[{"address":"10.0.0.1/24","interface":1e30}]}`, "prevResult.ips[0].interface"},
		{"1.1.0", `{"cniVersion":1}`, "prevResult.cniVersion"},
		{"1.1.0", `{"cniVersion":"9.9.9","ips":[{"address":"10.0.0.1/24"}]}`, "prevResult"},
		{"9.9.9", `{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.1/24"}]}`, "prevResult"},
		{"1.1.0", `{"cniVersion":"1.1.0"}`, "prevResult.ips"},
		{"1.1.0", `{"cniVersion":"1.1.0","ips":[]}`, "prevResult.ips"},
		{"1.1.0", `{"cniVersion":"1.1.0","ips":null}`, "prevResult.ips"},
		{"1.1.0", `{"cniVersion":"1.1.0","ips":[null]}`, "prevResult.ips[0].address"},
		{"1.1.0", `{"cniVersion":"1.1.0","ips":[{"address":"::ffff:10.0.0.1/120"}]}`, "prevResult.ips[0].address"},
		{"1.1.0", `{"cniVersion":"1.1.0","ips":[{"address":"0.0.0.0/0"},{"address":"127.0.0.1/8"},{"address":"224.0.0.1/4"},{"address":"::/0"},{"address":"fe80::2/64"}]}`, "prevResult.ips"},
		{"1.1.0", `{"cniVersion":"1.1.0","ips":[{}]}`, "prevResult.ips[0].address"},
		{"1.1.0", `{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.1"}]}`, "prevResult.ips[0].address"},
		{"1.1.0", `{"cniVersion":"1.1.0","ips":[{"address":10}]}`, "prevResult.ips[0].address"},
		{"1.1.0", `{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.1/24","interface":"eth0"}]}`, "prevResult.ips[0].interface"},
		{"1.1.0", `{"cniVersion":"1.1.0","interfaces":"x","ips":[{"address":"10.0.0.1/24"}]}`, "prevResult.interfaces"},
		{"1.1.0", `{"cniVersion":"1.1.0","interfaces":[{"name":1,"sandbox":"/x"}],"ips":[{"address":"10.0.0.1/24","interface":0}]}`, "prevResult.interfaces[0].name"},
		{"1.1.0", `{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.1/24","interface":0}]}`, "prevResult.ips[0].interface"},
		{"1.1.0", `{"cniVersion":"1.1.0","interfaces":[null],"ips":[{"address":"10.0.0.1/24","interface":0}]}`, "prevResult.ips"},
		{"1.1.0", `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.0.0.1/24","interface":-1}]}`, "prevResult.ips[0].interface"},
		{"1.1.0", `{"cniVersion":"1.1.0","interfaces":[{"name":"eth1","sandbox":"/x"}],"ips":[{"address":"10.0.0.1/24","interface":0}]}`, "prevResult.ips"},
		{"1.1.0", `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"10.0.0.1/24","interface":0}]}`, "prevResult.ips"},
		{"0.3.1", `{"ips":[{"version":"4","address":"x"}]}`, "prevResult.ips[0].address"},
		{"0.4.0", `{"ips":[{"version":"4"}]}`, "prevResult.ips[0].address"},
	} {
		c := &netconf.Config{CNIVersion: tc.version}
		if tc.result != "" {
			c.PrevResult = json.RawMessage(tc.result)
		}
		_, err := c.PodAddresses("eth0")
		wantField(t, tc.version+" "+tc.result, err, tc.field)
	}
}
