package agent

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// message is a notification of nf_tables.
func message(kind uint16, family byte, attrs ...[]byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, 0)
	b = binary.NativeEndian.AppendUint16(b, unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	b = append(b, make([]byte, 10)...)
	b = append(b, family, 0, 0, 0)
	for _, a := range attrs {
		b = append(b, a...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

func attr(kind uint16, value string) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func name(kind uint16, text string) []byte { return attr(kind, text+"\x00") }

func generation(pid uint32, process string) []byte {
	return message(unix.NFT_MSG_NEWGEN, 0, attr(1, "\x00\x00\x00\x07"),
		attr(nftaGenProcPID, string(binary.BigEndian.AppendUint32(nil, pid))), name(nftaGenProcName, process))
}

func rule(table, chain string) []byte {
	return message(unix.NFT_MSG_NEWRULE, unix.NFPROTO_IPV4, name(unix.NFTA_RULE_TABLE, table), name(unix.NFTA_RULE_CHAIN, chain))
}

func chain(table, name string) []byte {
	return message(unix.NFT_MSG_NEWCHAIN, unix.NFPROTO_IPV4, attr(unix.NFTA_CHAIN_TABLE, table+"\x00"), attr(unix.NFTA_CHAIN_NAME, name+"\x00"))
}

func TestCommits(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   [][]byte
		want []commit
	}{
		{"of others", [][]byte{rule("nat", "KUBE-SERVICES"), generation(7, "iptables-restor")}, nil},
		{"of another family", [][]byte{rule("hostport", "prerouting"), generation(7, "nft")}, nil},
		{"nothing but an end", [][]byte{generation(7, "nft")}, nil},
		{"an ADD of ours", [][]byte{chain("nat", "CNI-HP-OLD-0123456789abcdef"), rule("nat", "CNI-HP-TCP-1F9"), generation(7, "iptables-restor")}, nil},
		{
			"a snapshot that is restored",
			[][]byte{
				message(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, name(unix.NFTA_RULE_TABLE, "nat"), name(unix.NFTA_RULE_CHAIN, "CNI-HP-TCP-1F9")),
				chain("nat", "CNI-HP-OLD-0123456789abcdef"), generation(7, "iptables-restor"),
			},
			[]commit{{"iptables", 7, "iptables-restor"}},
		},
		{
			"somebody's rule after an ADD of ours",
			[][]byte{
				chain("nat", "CNI-HP-OLD-0123456789abcdef"), generation(7, "iptables-restor"),
				rule("nat", "CNI-HP-TCP-1F9"), generation(8, "iptables"),
			},
			[]commit{{"iptables", 8, "iptables"}},
		},
		{
			"our table",
			[][]byte{message(unix.NFT_MSG_DELTABLE, unix.NFPROTO_INET, name(unix.NFTA_TABLE_NAME, "hostport")), generation(7, "nft")},
			[]commit{{"nftables", 7, "nft"}},
		},
		{
			"an element",
			[][]byte{
				message(unix.NFT_MSG_DELSETELEM, unix.NFPROTO_INET, name(1, "hostport"), name(2, "v4")),
				message(unix.NFT_MSG_DELSETELEM, unix.NFPROTO_INET, name(1, "hostport"), name(2, "v4")), generation(8, "nft"),
			},
			[]commit{{"nftables", 8, "nft"}},
		},
		{
			"a chain of ours",
			[][]byte{
				message(unix.NFT_MSG_DELCHAIN, unix.NFPROTO_IPV6, name(unix.NFTA_CHAIN_TABLE, "nat"), name(unix.NFTA_CHAIN_NAME, "CNI-HP-DNAT")),
				generation(9, "ip6tables"),
			},
			[]commit{{"iptables", 9, "ip6tables"}},
		},
		{
			"a built-in chain that leads to ours",
			[][]byte{rule("nat", "OUTPUT"), generation(9, "iptables")},
			[]commit{{"iptables", 9, "iptables"}},
		},
		{"a built-in chain that does not", [][]byte{rule("filter", "OUTPUT"), generation(9, "iptables")}, nil},
		{
			"the second of two",
			[][]byte{
				rule("filter", "FORWARD"), generation(9, "docker"),
				rule("raw", "CNI-HP-GUARD"), generation(10, "iptables"),
			},
			[]commit{{"iptables", 10, "iptables"}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &commits{touched: make(map[string]bool)}
			// The kernel may put the messages of a transaction into several datagrams.
			var got []commit
			for _, m := range tc.in {
				got = append(got, c.parse(m)...)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(commit{})); diff != "" {
				t.Errorf("one by one (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.want, c.parse(slices.Concat(tc.in...)), cmp.AllowUnexported(commit{})); diff != "" {
				t.Errorf("together (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzCommits parses arbitrary bytes as notifications.
func FuzzCommits(f *testing.F) {
	f.Add(slices.Concat(rule("nat", "CNI-HP-DNAT"), generation(1, "nft")))
	f.Add(message(unix.NFT_MSG_DELTABLE, unix.NFPROTO_INET, []byte{4, 0, 1, 0, 3, 0, 1, 0}))
	f.Add([]byte(strings.Repeat("\xff", 40)))
	f.Fuzz(func(_ *testing.T, b []byte) {
		c := &commits{touched: make(map[string]bool)}
		c.parse(b)
	})
}
