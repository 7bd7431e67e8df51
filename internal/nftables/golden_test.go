package nftables

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// TestGolden compares listings, not texts: what nft makes of the file, and
// what it makes of our transaction.
func TestGolden(t *testing.T) {
	small := func(n int, change ...func(*hostport.Attachment)) *hostport.Attachment {
		a := pod(n, change...)
		a.ContainerID = "3f2a"
		return a
	}
	cases := map[string][]*hostport.Attachment{
		"one_pod":  {small(1, mapped("8080:80/tcp", "53:53/udp", "36412:36412/sctp"))},
		"two_pods": {pod(1), pod(2)},
		"host_ips": {small(1, mapped("192.0.2.1@80:8080/tcp", "2001:db8::1@80:8080/tcp", "0.0.0.0@81:8081/tcp", "::@82:8082/tcp"))},
		"ipv4":     {small(1, addressed("10.244.0.3/24"))},
		"ipv6":     {small(1, addressed("fd00::3/64"))},
		"hosts":    {small(1, addressed("10.244.0.3/32", "fd00::3/128"))},
		"odd":      {small(1, addressed("10.244.3.3/19", "fd00::3/57"))},
		"masq_all": {small(1, options(func(o *hostport.Options) { o.MasqueradeAll = true }))},
		"no_snat":  {small(1, options(func(o *hostport.Options) { o.SNAT = false }))},
		"conditions": {small(1, options(func(o *hostport.Options) {
			o.ConditionsV4 = []string{"ip saddr 10.0.0.0/8", "ip saddr != { 10.1.0.0/16, 10.2.0.0/15 }", "ip daddr != 10.96.0.0/12"}
			o.ConditionsV6 = []string{`iifname { "eth0", "bond*" } meta mark & 0xff != 1`, "meta mark 2", "ip6 daddr fd00::/57"}
		})), pod(2)},
	}
	for name, atts := range cases {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".nft")
			ours := newWorld(t)
			n := &node{t: t, backend: new(Backend)}
			n.add(atts...)
			if *update {
				if err := os.WriteFile(file, []byte(ours.ruleset()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			oracle := newWorld(t)
			oracle.load(string(want))
			if diff := cmp.Diff(oracle.unordered(), ours.unordered()); diff != "" {
				t.Errorf("listings (-%s +ours):\n%s", file, diff)
			}
			// The other way round: what nft wrote is what we would write.
			wantClean(t, new(Backend), atts)
		})
	}
}
