package iptables

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// neighbours are rules of other programs: among them one that leads to a chain of ours
// from a chain of theirs, and chains that have nothing to do with us.
const neighbours = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:THEIRS - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A KUBE-SERVICES -d 192.0.2.9/32 -p tcp -m tcp --dport 80 -j THEIRS
-A THEIRS -p tcp -m tcp --dport 8080 -j CNI-HP-DNAT
COMMIT
`

// TestReadIsWhatIsSaved compares what is asked of nf_tables and of the tool chain
// by chain with iptables-save.
func TestReadIsWhatIsSaved(t *testing.T) {
	w := newWorld(t, "nft")
	n := &node{b: w.b}
	n.add(t, everything())
	w.run(neighbours, "iptables-restore", "--noflush")
	for _, f := range hostport.Families() {
		v, err := w.b.current(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		saved, err := w.b.save(t.Context(), v, false)
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.b.read(t.Context(), v, false)
		if err != nil {
			t.Fatal(err)
		}
		if f == hostport.IPv4 && len(got.rules[inNat("THEIRS")]) != 1 {
			t.Errorf("chain THEIRS leads to one of ours, and has no rules: %q", got.rules)
		}
		for p, rules := range saved.rules {
			switch {
			case p.name == "KUBE-SERVICES": // it does not lead to us
				saved.rules[p] = nil
			case len(rules) == 0 && !got.has(p) && !ours(p.name): // a built-in chain that nobody has used
				delete(saved.rules, p)
			}
		}
		if diff := cmp.Diff(saved.rules, got.rules, cmp.AllowUnexported(chainID{})); diff != "" {
			t.Errorf("%s (-saved +listed):\n%s", f, diff)
		}
	}
}

// TestReadWithoutSave keeps iptables-save from answering, as it does for seconds
// where there are many Services.
func TestReadWithoutSave(t *testing.T) {
	w := newWorld(t, "nft")
	n := &node{b: w.b}
	a := everything()
	n.add(t, a)
	w.run(neighbours, "iptables-restore", "--noflush")
	for _, tool := range []string{"iptables-save", "ip6tables-save"} {
		w.stub(tool, "exit 1")
	}
	if owners, err := w.b.Owners(t.Context()); err != nil || len(owners) != 1 {
		t.Errorf("owners %v, error %v", owners, err)
	}
	if counted, err := w.b.Connections(t.Context()); err != nil || len(counted) != len(a.Forwards(hostport.IPv4))+len(a.Forwards(hostport.IPv6)) {
		t.Errorf("connections %v, error %v", counted, err)
	}
	if got := n.audit(t); !strings.Contains(got, "in chain THEIRS of table nat a rule belongs to no attachment") {
		t.Errorf("Audit: %s", got)
	}
	w.run("", "iptables", "-t", "nat", "-F", "CNI-HP-DNAT")
	n.rewrite(t)
	if got := n.audit(t); got != "" {
		t.Errorf("after Rewrite: %s", got)
	}
}

// TestReadOddName has a chain whose name would be a command to iptables-restore: it
// is not handed to that.
func TestReadOddName(t *testing.T) {
	w := newWorld(t, "nft")
	n := &node{b: w.b}
	n.add(t, everything())
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	conn.AddChain(&nftables.Chain{
		Table: &nftables.Table{Name: natTable, Family: nftables.TableFamilyIPv4}, Name: "X\n-F",
		Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	v, err := w.b.current(t.Context(), hostport.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.b.read(t.Context(), v, false)
	if err != nil || !r.has(inNat(dnatChain)) || len(r.rules[inNat(preroutingChain)]) == 0 {
		t.Errorf("tables %v, error %v", r, err)
	}
}
