package iptables

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/golden"
)

// TestGolden compares what is fed to the tools with the files in testdata:
// each attachment comes and goes alone, and beside another that stays.
func TestGolden(t *testing.T) {
	beside := attachment("b", maps("8089:80"), addresses("10.244.0.41/24", "fd00:10:244::29/64"))
	for name, sample := range samples {
		a := sample()
		one := []*hostport.Attachment{a}
		var b strings.Builder
		for _, f := range hostport.Families() {
			if len(a.Forwards(f)) == 0 {
				continue
			}
			both := []*hostport.Attachment{beside}
			for _, c := range []struct {
				title  string
				change backend.Change
			}{
				{"the first attachment comes", change(nil, nil, one)},
				{"the last attachment goes", change(nil, one, nil)},
				{"it comes beside another", change(both, nil, one)},
				{"it is added again", change(both, one, one)},
				{"it goes from beside another", change(both, one, nil)},
			} {
				s, _ := scriptsFor(t, f, c.change)
				fmt.Fprintf(&b, "# %s: %s\n%s\n", f, c.title, s)
			}
			fmt.Fprintf(&b, "# %s: it is rewritten where much was lost\n%s\n", f, rewritten(f, parseSave(t, lost), one, 1))
		}
		golden.Equal(t, strings.ReplaceAll(name, " ", "-")+".rules", b.String())
	}
}

func parseSave(t testing.TB, text string) *ruleset {
	t.Helper()
	r := new(ruleset)
	if err := r.parse(text); err != nil {
		t.Fatal(err)
	}
	return r
}

// lost is a kernel after a visit: jumps twice, ahead of kube-proxy, or gone, a
// chain of a dead attachment.
const lost = `*raw
:PREROUTING ACCEPT [0:0]
:CNI-HP-GUARD - [0:0]
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:CNI-HP-DNAT - [0:0]
:CNI-HP-UDP-99 - [0:0]
:CNI-HP-V-00000000000000aa - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HP-DNAT
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HP-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HP-DNAT
-A CNI-HP-DNAT -p udp -m udp --dport 39168:39423 -j CNI-HP-UDP-99
COMMIT
`
